// What queries and keys go through before attention, in place on the fused projection: bias, RMSNorm over each head where
// the model has it, rotation. Values get their bias. One warp per head of a row.
#include "device.cuh"

// `qkv` is (rows, (query_heads + 2 kv_heads) dim), `bias` one such row or null, `norms` (2, dim), the weights for queries and
// for keys, or null, `angles` (positions, dim / 2) pairs of cosine and sine. `dim` is a multiple of 4 and at most 128.
extern "C" __global__ void rope(bf16* qkv, const bf16* bias, const bf16* norms, const uint32_t* positions,
                                const float4* angles, uint32_t rows, uint32_t query_heads, uint32_t kv_heads, uint32_t dim,
                                float eps) {
    // Without a bias there is nothing to do to values.
    const uint32_t heads = query_heads + kv_heads + (bias != nullptr ? kv_heads : 0);
    const size_t task = size_t(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    const size_t row = task / heads;
    const uint32_t head = uint32_t(task % heads), lane = threadIdx.x % WARP;
    if (row >= rows) return;

    // A lane has two neighbouring dimensions of the first half and those of the second half that they are rotated with.
    const uint32_t words = dim / 4;
    const bool active = lane < words;
    uint32_t* values = reinterpret_cast<uint32_t*>(qkv + row * (query_heads + 2 * kv_heads) * dim + size_t(head) * dim);
    const uint32_t first = active ? values[lane] : 0, second = active ? values[words + lane] : 0;
    float x[4] = {low(first), high(first), low(second), high(second)};
    if (bias != nullptr && active) {
        const uint32_t* biases = reinterpret_cast<const uint32_t*>(bias + size_t(head) * dim);
        const uint32_t b0 = biases[lane], b1 = biases[words + lane];
        x[0] += low(b0), x[1] += high(b0), x[2] += low(b1), x[3] += high(b1);
    }
    if (head < query_heads + kv_heads) {
        if (norms != nullptr) {
            const float squares = x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + x[3] * x[3];
            const float scale = rsqrtf(warp_sum(squares) / float(dim) + eps);
            const uint32_t* weights = reinterpret_cast<const uint32_t*>(norms + (head < query_heads ? 0 : dim));
            if (active) {
                const uint32_t w0 = weights[lane], w1 = weights[words + lane];
                x[0] *= scale * low(w0), x[1] *= scale * high(w0), x[2] *= scale * low(w1), x[3] *= scale * high(w1);
            }
        }
        if (active) {
            const float4 a = angles[size_t(positions[row]) * words + lane];
            const float y[4] = {x[0] * a.x - x[2] * a.y, x[1] * a.z - x[3] * a.w, x[2] * a.x + x[0] * a.y,
                                x[3] * a.z + x[1] * a.w};
            x[0] = y[0], x[1] = y[1], x[2] = y[2], x[3] = y[3];
        }
    }
    if (active) values[lane] = pack(x[0], x[1]), values[words + lane] = pack(x[2], x[3]);
}
