// RMSNorm of rows: out = x weight / sqrt(mean(x^2) + eps). One warp per row.
//
// The residual has been added by the matrix product before; a bias that product could not add is added here, in place.
#include "device.cuh"

// `x` and `out` are (rows, width), `weight` and `bias` (width); `bias` may be null. `width` is a multiple of 8.
extern "C" __global__ void rms_norm(bf16* x, const bf16* bias, const bf16* weight, bf16* out, uint32_t rows,
                                    uint32_t width, float eps) {
    const uint32_t row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    const uint32_t lane = threadIdx.x % WARP;
    if (row >= rows) return;
    uint4* values = reinterpret_cast<uint4*>(x + size_t(row) * width);
    const uint4* biases = reinterpret_cast<const uint4*>(bias);
    const uint4* weights = reinterpret_cast<const uint4*>(weight);
    uint4* normed = reinterpret_cast<uint4*>(out + size_t(row) * width);

    float squares = 0;
    for (uint32_t i = lane; i < width / 8; i += WARP) {
        uint4 v = values[i];
        if (bias != nullptr) {
            const uint4 b = biases[i];
            v = {pack(low(v.x) + low(b.x), high(v.x) + high(b.x)), pack(low(v.y) + low(b.y), high(v.y) + high(b.y)),
                 pack(low(v.z) + low(b.z), high(v.z) + high(b.z)), pack(low(v.w) + low(b.w), high(v.w) + high(b.w))};
            values[i] = v;
        }
        squares += low(v.x) * low(v.x) + high(v.x) * high(v.x) + low(v.y) * low(v.y) + high(v.y) * high(v.y) +
                   low(v.z) * low(v.z) + high(v.z) * high(v.z) + low(v.w) * low(v.w) + high(v.w) * high(v.w);
    }
    const float scale = rsqrtf(warp_sum(squares) / float(width) + eps);
    for (uint32_t i = lane; i < width / 8; i += WARP) {
        const uint4 v = values[i], w = weights[i];
        normed[i] = {pack(low(v.x) * scale * low(w.x), high(v.x) * scale * high(w.x)),
                     pack(low(v.y) * scale * low(w.y), high(v.y) * scale * high(w.y)),
                     pack(low(v.z) * scale * low(w.z), high(v.z) * scale * high(w.z)),
                     pack(low(v.w) * scale * low(w.w), high(v.w) * scale * high(w.w))};
    }
}
