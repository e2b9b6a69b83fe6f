// Rows of a matrix by index: out[i] = source[ids[i]]. One block per row.
#include "device.cuh"

// `width` numbers a row, a multiple of 8.
extern "C" __global__ void gather(const bf16* source, const uint32_t* ids, bf16* out, uint32_t width) {
    const uint4* from = reinterpret_cast<const uint4*>(source + size_t(ids[blockIdx.x]) * width);
    uint4* to = reinterpret_cast<uint4*>(out + size_t(blockIdx.x) * width);
    for (uint32_t i = threadIdx.x; i < width / 8; i += blockDim.x) to[i] = from[i];
}
