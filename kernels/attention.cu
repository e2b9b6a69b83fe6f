// Attention of packed trees of segments, after FlashAttention-2 (arXiv 2307.08691): a softmax that goes along over tiles of
// keys, so that no score is ever stored.
//
// A block has one tile: up to 64 rows, which are the heads that share one head of keys and values, for consecutive queries of
// one segment. Row r is query r / group, head r % group. Keys are taken by their position in the sequence, 64 at a time from
// a multiple of 64 on; a segment's list of ranges says in which row of the batch each position lies. So who sees whom is a
// comparison of positions, and the order of a row's sums does not depend on what else is in the batch. No atomics.
#include "device.cuh"

constexpr int ROWS = 64;     // of a tile: 4 warps of 16
constexpr int KEYS = 64;     // of a tile
constexpr int THREADS = 128;

// Consecutive queries of one segment.
struct Tile {
    uint32_t row;       // of the first query in the batch
    uint32_t queries;   // at most ROWS / group
    uint32_t out;       // the row of the output for the first query
    uint32_t position;  // of the first query in its sequence
    uint32_t ranges;    // where its segment's list begins
};

// Positions from the range before up to `end` lie in the rows `position + shift`, modulo 2^32.
struct Range {
    uint32_t end;
    uint32_t shift;
};

template <int DIM>
struct Shape {
    static constexpr int STRIDE = DIM + 8;  // of rows in shared memory: eight rows' 16-byte pieces fall in different banks
    static constexpr int STEPS = DIM / 16;
    static constexpr int STAGE = KEYS * STRIDE;
};

// Starts to copy the keys and the values of KEYS positions from `from` on; zeros after `last`.
template <int DIM>
__device__ __forceinline__ void load_keys(bf16* keys, bf16* values, const bf16* qkv, size_t width, size_t key_column,
                                          size_t value_column, const Range* ranges, uint32_t from, uint32_t last) {
    constexpr int LANES = 8;  // threads that copy one row, 16 bytes each at a time
#pragma unroll
    for (int key = threadIdx.x / LANES; key < KEYS; key += THREADS / LANES) {
        const uint32_t position = from + key;
        const bool valid = position <= last;
        const bf16* row = qkv;
        if (valid) {
            const Range* range = ranges;
            while (position >= range->end) ++range;
            row += size_t(position + range->shift) * width;
        }
#pragma unroll
        for (int column = threadIdx.x % LANES * 8; column < DIM; column += LANES * 8) {
            copy_async(keys + key * Shape<DIM>::STRIDE + column, row + key_column + column, valid);
            copy_async(values + key * Shape<DIM>::STRIDE + column, row + value_column + column, valid);
        }
    }
}

template <int DIM>
__device__ __forceinline__ void attention(const bf16* qkv, bf16* out, const Tile* tiles, const Range* all_ranges,
                                          uint32_t query_heads, uint32_t kv_heads, uint32_t window, float scale) {
    constexpr int STRIDE = Shape<DIM>::STRIDE, STEPS = Shape<DIM>::STEPS, STAGE = Shape<DIM>::STAGE;
    SHARED_MEMORY(memory);
    bf16* const keys = reinterpret_cast<bf16*>(memory);  // two stages
    bf16* const values = keys + 2 * STAGE;               // two stages

    const Tile tile = tiles[blockIdx.x];
    const Range* const ranges = all_ranges + tile.ranges;
    const uint32_t head = blockIdx.y, group = query_heads / kv_heads;
    const size_t width = size_t(query_heads + 2 * kv_heads) * DIM;
    const size_t key_column = size_t(query_heads + head) * DIM, value_column = key_column + size_t(kv_heads) * DIM;
    const uint32_t rows = tile.queries * group, last = tile.position + tile.queries - 1;
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    // The first tile begins at a multiple of KEYS, and reaches further back than the first query sees.
    const uint32_t first = window != 0 && tile.position >= window ? (tile.position + 1 - window) / KEYS * KEYS : 0;
    const uint32_t key_tiles = (last - first) / KEYS + 1;

    // The queries pass through the second stage of the keys into registers.
    bf16* const queries = keys + STAGE;
    for (int piece = threadIdx.x; piece < ROWS * DIM / 8; piece += THREADS) {
        const uint32_t row = piece / (DIM / 8), column = piece % (DIM / 8) * 8;
        const bool valid = row < rows;
        const bf16* from = qkv;
        if (valid) from += (tile.row + row / group) * width + size_t(head * group + row % group) * DIM + column;
        copy_async(queries + row * STRIDE + column, from, valid);
    }
    load_keys<DIM>(keys, values, qkv, width, key_column, value_column, ranges, first, last);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    uint32_t query[STEPS][4];
#pragma unroll
    for (int step = 0; step < STEPS; ++step)
        load_matrices(query[step], queries + (warp * 16 + lane % 16) * STRIDE + step * 16 + lane / 16 * 8);
    __syncthreads();

    // A lane has columns 2 (lane % 4) and the next of rows lane / 4 and 8 further, in every tile of 8 columns.
    const uint32_t query_position[2] = {tile.position + (warp * 16 + lane / 4) / group,
                                        tile.position + (warp * 16 + lane / 4 + 8) / group};
    float sums[2 * STEPS][4] = {};
    float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    const float exponent_scale = scale * LOG2_E;

    for (uint32_t t = 0; t < key_tiles; ++t) {
        const uint32_t from = first + t * KEYS;
        if (t + 1 < key_tiles) {
            const int next = (t + 1) % 2 * STAGE;
            load_keys<DIM>(keys + next, values + next, qkv, width, key_column, value_column, ranges, from + KEYS, last);
        }
        commit_copies();
        wait_for_copies<1>();
        __syncthreads();
        const bf16* const stage_keys = keys + t % 2 * STAGE;
        const bf16* const stage_values = values + t % 2 * STAGE;

        float scores[KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
#pragma unroll
            for (int pair = 0; pair < KEYS / 16; ++pair) {
                uint32_t b[4];
                load_matrices(b, stage_keys + (pair * 16 + lane / 16 * 8 + lane % 8) * STRIDE + step * 16 + lane / 8 % 2 * 8);
                multiply_add(scores[2 * pair], query[step], b[0], b[1]);
                multiply_add(scores[2 * pair + 1], query[step], b[2], b[3]);
            }
        }

        // Most tiles lie wholly before the first query and inside the last one's window.
        if (from + KEYS > tile.position || (window != 0 && last - from >= window)) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const uint32_t key = from + n * 8 + lane % 4 * 2 + i % 2, own = query_position[i / 2];
                    if (key > own || (window != 0 && own - key >= window)) scores[n][i] = -INFINITY;
                }
            }
        }

        float base[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float now = highest[half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) now = fmaxf(now, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 1));
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 2));
            // A row that has seen no key yet has weights of 0, not of infinity minus infinity.
            base[half] = now == -INFINITY ? 0.0f : now * exponent_scale;
            const float shrink = power_of_two(highest[half] * exponent_scale - base[half]);
            highest[half] = now;
            total[half] *= shrink;
#pragma unroll
            for (int n = 0; n < 2 * STEPS; ++n) sums[n][2 * half] *= shrink, sums[n][2 * half + 1] *= shrink;
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                scores[n][i] = power_of_two(scores[n][i] * exponent_scale - base[i / 2]);
                total[i / 2] += scores[n][i];
            }
        }

#pragma unroll
        for (int step = 0; step < KEYS / 16; ++step) {
            const uint32_t weights[4] = {
                pack(scores[2 * step][0], scores[2 * step][1]), pack(scores[2 * step][2], scores[2 * step][3]),
                pack(scores[2 * step + 1][0], scores[2 * step + 1][1]), pack(scores[2 * step + 1][2], scores[2 * step + 1][3])};
#pragma unroll
            for (int pair = 0; pair < STEPS; ++pair) {
                uint32_t b[4];
                load_matrices_transposed(
                    b, stage_values + (step * 16 + lane / 8 % 2 * 8 + lane % 8) * STRIDE + pair * 16 + lane / 16 * 8);
                multiply_add(sums[2 * pair], weights, b[0], b[1]);
                multiply_add(sums[2 * pair + 1], weights, b[2], b[3]);
            }
        }
        // The stage is copied over in the next round.
        __syncthreads();
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        total[half] += __shfl_xor_sync(ALL_LANES, total[half], 1);
        total[half] += __shfl_xor_sync(ALL_LANES, total[half], 2);
        const uint32_t row = warp * 16 + lane / 4 + 8 * half;
        if (row >= rows) continue;
        const float inverse = 1.0f / total[half];
        bf16* const to = out + (size_t(tile.out) + row / group) * query_heads * DIM + size_t(head * group + row % group) * DIM;
#pragma unroll
        for (int n = 0; n < 2 * STEPS; ++n) {
            *reinterpret_cast<uint32_t*>(to + n * 8 + lane % 4 * 2) =
                pack(sums[n][2 * half] * inverse, sums[n][2 * half + 1] * inverse);
        }
    }
}

// `qkv` is (T, (query_heads + 2 kv_heads) DIM), rotated; `out` has rows of query_heads DIM. `window`: how many positions back a
// query sees, its own included; 0 for all. The grid is (tiles, kv_heads). BLOCKS shall fit on a multiprocessor at a time.
#define ATTENTION(DIM, BLOCKS)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                                  \
        attention_##DIM(const bf16* qkv, bf16* out, const Tile* tiles, const Range* ranges, uint32_t query_heads,           \
                        uint32_t kv_heads, uint32_t window, float scale) {                                                 \
        attention<DIM>(qkv, out, tiles, ranges, query_heads, kv_heads, window, scale);                                      \
    }

ATTENTION(64, 4)
ATTENTION(80, 4)
ATTENTION(96, 4)
ATTENTION(128, 3)
