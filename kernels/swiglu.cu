// The MLP's gate: out = silu(gate) up, for rows that hold all gates, then all ups. A block has one row, or a part of it.
#include "device.cuh"

__device__ __forceinline__ float gated(float gate, float up) { return gate / (1.0f + power_of_two(-gate * LOG2_E)) * up; }

__device__ __forceinline__ uint32_t gated_pair(uint32_t gate, uint32_t up, uint32_t gate_bias, uint32_t up_bias) {
    return pack(gated(low(gate) + low(gate_bias), low(up) + low(up_bias)),
                gated(high(gate) + high(gate_bias), high(up) + high(up_bias)));
}

// `gate_up` is (rows, 2 inner), `bias` (2 inner) or null, `out` (rows, inner); `inner` is a multiple of 8.
extern "C" __global__ void swiglu(const bf16* gate_up, const bf16* bias, bf16* out, uint32_t inner) {
    const uint32_t words = inner / 8;
    const uint32_t i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= words) return;
    const uint4* gates = reinterpret_cast<const uint4*>(gate_up) + size_t(blockIdx.x) * 2 * words;
    const uint4 gate = gates[i], up = gates[words + i];
    uint4 b = {0, 0, 0, 0}, c = {0, 0, 0, 0};
    if (bias != nullptr) b = reinterpret_cast<const uint4*>(bias)[i], c = reinterpret_cast<const uint4*>(bias)[words + i];
    reinterpret_cast<uint4*>(out)[size_t(blockIdx.x) * words + i] = {
        gated_pair(gate.x, up.x, b.x, c.x), gated_pair(gate.y, up.y, b.y, c.y), gated_pair(gate.z, up.z, b.z, c.z),
        gated_pair(gate.w, up.w, b.w, c.w)};
}
