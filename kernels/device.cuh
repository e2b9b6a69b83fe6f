// What the kernels use of the machine beyond plain C++: conversions, tensor cores, asynchronous copies.
//
// Compiled by nvcc, these are single instructions of compute capability 8.0 and later. Compiled by a plain C++ compiler,
// `emulation/cuda.h` takes their place, so that the kernels' arithmetic is tested without a GPU.
//
// A number of type bfloat16 travels as its 16 bits, two of them in a 32-bit word, the first in the low half.
#pragma once

#include <cstddef>
#include <cstdint>

using bf16 = uint16_t;

#ifdef __CUDACC__

#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]

__device__ __forceinline__ float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }

// Two numbers rounded to nearest even.
__device__ __forceinline__ uint32_t pack(float low, float high) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

__device__ __forceinline__ float power_of_two(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// Starts to copy 16 bytes into shared memory; zeros if not `valid`.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid ? 16 : 0) : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups of this thread's copies but the last `Pending`.
template <int Pending>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Four matrices of 8 by 8; lane i gives the address of row i % 8 of matrix i / 8. Of matrix j a lane gets, in word j, columns
// 2 (lane % 4) and the next of row lane / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], const bf16* row) {
    const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from)
                 : "memory");
}

// The same of the transposed matrices: rows 2 (lane % 4) and the next of column lane / 4.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&words)[4], const bf16* row) {
    const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from)
                 : "memory");
}

// sums += a b for a of 16 by 16 and b of 16 by 8, spread over a warp's lanes.
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else
#include "emulation/cuda.h"
#endif

constexpr float LOG2_E = 1.4426950408889634f;
constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float low(uint32_t word) { return bits_to_float(word << 16); }
__device__ __forceinline__ float high(uint32_t word) { return bits_to_float(word & 0xffff0000u); }

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (unsigned step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}
