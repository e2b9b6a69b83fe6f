// Enough of CUDA for `kernels/*.cu` to run on a CPU: a block's threads are fibers that take turns, and whatever threads do
// together (barriers, shuffles, matrix loads, tensor-core products) waits until all of them have come. For tests.
//
// It is meant to be stricter than the machine: memory starts as NaN, an instruction of a whole warp is an error unless all 32
// lanes come to the same one, and the order in which threads run, and whether an asynchronous copy lands at once or only
// when it is waited for, are chosen by `schedule`, so that a missing barrier changes the result.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <setjmp.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SHARED_MEMORY(name) unsigned char* const name = emulation::block->shared

struct uint4 {
    uint32_t x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};

namespace emulation {

struct Index {
    uint32_t x = 0, y = 0, z = 0;
};
inline thread_local Index thread_index, block_index, block_size;

constexpr unsigned LANES = 32;
constexpr size_t STACK = 64 << 10;

struct Barrier {
    unsigned size = 0, arrived = 0, generation = 0;
};

struct Copy {
    void* to;
    const void* from;
    bool valid;
};

enum Instruction { SHUFFLE, MATRIX_LOAD, TRANSPOSED_LOAD, PRODUCT };

// What a lane brings to an instruction of its warp: which one it is, and its operands.
struct Offer {
    Instruction instruction = SHUFFLE;
    uint32_t words[6] = {};
    const void* address = nullptr;
};

struct Warp {
    Barrier barrier;
    // Two sets, used in turn: when a lane fills one again, all lanes have read it.
    Offer offers[2][LANES];
};

struct Fiber {
    ucontext_t context;  // where it starts; from then on it goes on from `resume`, which costs no system call
    jmp_buf resume;
    bool started = false;
    bool done = false;
    unsigned collectives = 0;
    std::vector<std::vector<Copy>> copies = {{}};
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Barrier barrier;
    unsigned char* shared;
    size_t shared_bytes;
    unsigned current = 0, events = 0;
    bool copies_land_at_once;
    jmp_buf scheduler;
    std::function<void()> body;
    std::string error;
};
inline thread_local Block* block = nullptr;

inline void give_way() {
    if (_setjmp(block->fibers[block->current].resume) == 0) _longjmp(block->scheduler, 1);
}

// Lets a fiber run until it gives way.
__attribute__((noinline)) inline void resume(Fiber& fiber) {
    if (_setjmp(block->scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

// Notes the error and never goes on: the scheduler gives the block up.
inline void fail(const std::string& error) {
    if (block->error.empty()) block->error = error;
    for (;;) give_way();
}

inline void wait(Barrier& barrier) {
    const unsigned generation = barrier.generation;
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0, ++barrier.generation, ++block->events;
        return;
    }
    while (barrier.generation == generation) give_way();
}

// Brings an offer and returns those of the whole warp.
inline const Offer (&together(const Offer& offer))[LANES] {
    Fiber& fiber = block->fibers[block->current];
    Warp& warp = block->warps[block->current / LANES];
    Offer(&offers)[LANES] = warp.offers[fiber.collectives++ % 2];
    offers[block->current % LANES] = offer;
    wait(warp.barrier);
    for (const Offer& other : offers)
        if (other.instruction != offer.instruction) fail("lanes of one warp are at different instructions");
    return offers;
}

inline uint32_t bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline void land(const Copy& copy) {
    if (copy.valid) std::memcpy(copy.to, copy.from, 16);
    else std::memset(copy.to, 0, 16);
}

inline void check_shared(const void* address, size_t bytes) {
    const auto* byte = static_cast<const unsigned char*>(address);
    if (byte < block->shared || byte + bytes > block->shared + block->shared_bytes) fail("an access beyond shared memory");
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0) fail("a misaligned access");
}

inline void enter() {
    block->body();
    Fiber& fiber = block->fibers[block->current];
    fiber.done = true, ++block->events;
    give_way();
}

// Runs one block. Bit 0 of `schedule`: the last warp goes first, and each as far as it can without the others; else all warps
// go step by step. Bit 1: copies land at once.
inline void run_block(unsigned threads, size_t shared_bytes, unsigned schedule, const std::function<void()>& body) {
    Block state;
    block = &state;
    std::vector<uint64_t> shared(shared_bytes / 8 + 3, ~uint64_t(0));
    state.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(shared.data()) + 15) / 16 * 16);
    state.shared_bytes = shared_bytes;
    state.copies_land_at_once = schedule & 2;
    state.body = body;
    state.barrier.size = threads;
    state.warps.resize(threads / LANES);
    for (Warp& warp : state.warps) warp.barrier.size = LANES;
    state.fibers.resize(threads);
    thread_local std::vector<std::unique_ptr<char[]>> stacks;
    while (stacks.size() < threads) stacks.emplace_back(new char[STACK]);
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = state.fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks[i].get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
    }
    for (bool alive = true; alive && state.error.empty();) {
        alive = false;
        const unsigned before = state.events;
        for (unsigned warp = 0; warp < threads / LANES; ++warp) {
            unsigned events;
            do {
                events = state.events;
                for (unsigned i = 0; i < LANES && state.error.empty(); ++i) {
                    const unsigned thread = warp * LANES + i;
                    state.current = schedule & 1 ? threads - 1 - thread : thread;
                    if (state.fibers[state.current].done) continue;
                    alive = true;
                    thread_index = {state.current};
                    resume(state.fibers[state.current]);
                }
            } while (schedule & 1 && state.events != events);
        }
        if (alive && state.events == before && state.error.empty()) state.error = "threads wait for each other for ever";
    }
    block = nullptr;
    if (!state.error.empty()) throw std::runtime_error(state.error);
}

}  // namespace emulation

#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
#define blockDim emulation::block_size

inline void __syncthreads() { emulation::wait(emulation::block->barrier); }

inline float bits_to_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline float __shfl_xor_sync(unsigned, float x, unsigned mask) {
    const auto& offers = emulation::together({emulation::SHUFFLE, {emulation::bits(x)}});
    return bits_to_float(offers[(emulation::block->current % emulation::LANES) ^ mask].words[0]);
}

inline uint32_t to_bf16(float x) {
    const uint32_t bits = emulation::bits(x);
    if (std::isnan(x)) return (bits >> 16) | 0x40;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline uint32_t pack(float low, float high) { return to_bf16(low) | to_bf16(high) << 16; }
inline float power_of_two(float x) { return std::exp2(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

inline void copy_async(void* shared, const void* global, bool valid) {
    using namespace emulation;
    check_shared(shared, 16);
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0) fail("a misaligned copy");
    const Copy copy = {shared, global, valid};
    if (block->copies_land_at_once) land(copy);
    else block->fibers[block->current].copies.back().push_back(copy);
}

inline void commit_copies() { emulation::block->fibers[emulation::block->current].copies.push_back({}); }

template <int Pending>
inline void wait_for_copies() {
    auto& groups = emulation::block->fibers[emulation::block->current].copies;
    // The last group is still being filled.
    while (groups.size() > Pending + 1) {
        for (const emulation::Copy& copy : groups.front()) emulation::land(copy);
        groups.erase(groups.begin());
    }
}

inline uint16_t element(const void* row, unsigned column) {
    uint16_t bits;
    std::memcpy(&bits, static_cast<const unsigned char*>(row) + 2 * column, 2);
    return bits;
}

inline void load_matrices(uint32_t (&words)[4], const uint16_t* row) {
    emulation::check_shared(row, 16);
    const auto& offers = emulation::together({emulation::MATRIX_LOAD, {}, row});
    const unsigned lane = emulation::block->current % emulation::LANES;
    for (unsigned j = 0; j < 4; ++j) {
        const void* from = offers[8 * j + lane / 4].address;
        words[j] = element(from, lane % 4 * 2) | uint32_t(element(from, lane % 4 * 2 + 1)) << 16;
    }
}

inline void load_matrices_transposed(uint32_t (&words)[4], const uint16_t* row) {
    emulation::check_shared(row, 16);
    const auto& offers = emulation::together({emulation::TRANSPOSED_LOAD, {}, row});
    const unsigned lane = emulation::block->current % emulation::LANES;
    for (unsigned j = 0; j < 4; ++j)
        words[j] = element(offers[8 * j + lane % 4 * 2].address, lane / 4) |
                   uint32_t(element(offers[8 * j + lane % 4 * 2 + 1].address, lane / 4)) << 16;
}

// The fragments' layout is that of the PTX manual, "Matrix Fragments for mma.m16n8k16".
inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const auto& offers = emulation::together({emulation::PRODUCT, {a[0], a[1], a[2], a[3], b0, b1}});
    const unsigned lane = emulation::block->current % emulation::LANES;
    const auto number = [](uint32_t word, unsigned half) { return bits_to_float(half ? word & 0xffff0000u : word << 16); };
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = sums[i];
        for (unsigned k = 0; k < 16; ++k) {
            const unsigned within = k % 8 / 2;
            const float x = number(offers[row % 8 * 4 + within].words[row / 8 + k / 8 * 2], k % 2);
            const float y = number(offers[column * 4 + within].words[4 + k / 8], k % 2);
            sum += double(x) * double(y);
        }
        sums[i] = float(sum);
    }
}
