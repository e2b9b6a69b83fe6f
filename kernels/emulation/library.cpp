// The kernels as a shared library for a CPU, called by name. Built by the tests: g++ -std=c++17 -shared -fPIC.
#include "../attention.cu"
#include "../gather.cu"
#include "../rms_norm.cu"
#include "../rope.cu"
#include "../swiglu.cu"

namespace {

template <class... Types, size_t... I>
std::function<void()> call_with(void (*kernel)(Types...), void** arguments, std::index_sequence<I...>) {
    return [=] { kernel(*static_cast<Types*>(arguments[I])...); };
}

template <class... Types>
std::function<void()> call_with(void (*kernel)(Types...), void** arguments) {
    return call_with(kernel, arguments, std::index_sequence_for<Types...>());
}

std::function<void()> find(const std::string& name, void** arguments) {
    if (name == "attention_64") return call_with(attention_64, arguments);
    if (name == "attention_80") return call_with(attention_80, arguments);
    if (name == "attention_96") return call_with(attention_96, arguments);
    if (name == "attention_128") return call_with(attention_128, arguments);
    if (name == "gather") return call_with(gather, arguments);
    if (name == "rms_norm") return call_with(rms_norm, arguments);
    if (name == "rope") return call_with(rope, arguments);
    if (name == "swiglu") return call_with(swiglu, arguments);
    throw std::runtime_error("no kernel has that name");
}

}  // namespace

// Runs a kernel over its grid, as cuLaunchKernel would. Returns null, or what went wrong, valid until the next call.
extern "C" const char* emulate(const char* name, uint32_t grid_x, uint32_t grid_y, uint32_t threads, uint32_t shared_bytes,
                               void** arguments, uint32_t schedule) {
    thread_local std::string error;
    try {
        const auto body = find(name, arguments);
        if (threads % emulation::LANES != 0) throw std::runtime_error("a block is not whole warps");
        emulation::block_size = {threads, 1, 1};
        for (uint32_t y = 0; y < grid_y; ++y) {
            for (uint32_t x = 0; x < grid_x; ++x) {
                emulation::block_index = {schedule & 1 ? grid_x - 1 - x : x, y, 0};
                emulation::run_block(threads, shared_bytes, schedule, body);
            }
        }
        return nullptr;
    } catch (const std::exception& exception) {
        error = exception.what();
        return error.c_str();
    }
}
