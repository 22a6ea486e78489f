// The Metal shading language on CUDA, as far as our kernels go: a warp is a simdgroup, a block a threadgroup. A second
// compiler's opinion on the very kernel text, and a real GPU to run it on where there is one.
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define MSL_FN __host__ __device__ __forceinline__
#include "../msl_types.h"

typedef __half half;
typedef unsigned long ulong;

namespace metal {

typedef vec<float, 2> m_float2;
typedef vec<float, 4> m_float4;
typedef vec<half, 2> m_half2;
typedef vec<half, 4> m_half4;
typedef vec<uint, 2> m_uint2;
typedef vec<uint, 3> m_uint3;
typedef vec<uint, 4> m_uint4;
typedef vec<short, 4> m_short4;
typedef vec<uchar, 4> m_uchar4;
typedef vec<signed char, 4> m_char4;

#define WARP 0xffffffffu
#define MSL_DEVICE __device__ __forceinline__
template <class T> MSL_DEVICE T simd_sum(T v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(WARP, v, step);
  return v;
}
MSL_DEVICE m_float4 simd_sum(m_float4 v) {
  return m_float4(simd_sum(v.x), simd_sum(v.y), simd_sum(v.z), simd_sum(v.w));
}
template <class T> MSL_DEVICE T simd_max(T v) {
  for (int step = 16; step > 0; step /= 2) v = max(v, T(__shfl_xor_sync(WARP, v, step)));
  return v;
}
template <class T> MSL_DEVICE T simd_shuffle(T v, ushort lane) { return __shfl_sync(WARP, v, lane); }
template <class T> MSL_DEVICE T simd_shuffle_xor(T v, ushort mask) { return __shfl_xor_sync(WARP, v, mask); }
MSL_DEVICE void threadgroup_barrier(mem_flags) { __syncthreads(); }
MSL_DEVICE void simdgroup_barrier(mem_flags) { __syncwarp(); }

// 8 x 8 matrices: lane i holds elements 2 i and 2 i + 1, row by row. Correctness only: each product walks the warp.
template <class T, int C, int R> struct simdgroup_matrix { T e[2]; };
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
template <class T, int C, int R> MSL_DEVICE simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, C, R> m;
  m.e[0] = m.e[1] = v;
  return m;
}
MSL_DEVICE uint element_of_lane() { return (threadIdx.x & 31u) * 2u; }
template <class T> MSL_DEVICE void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* p, ulong stride) {
  const uint i = element_of_lane();
  for (uint k = 0; k < 2; ++k) m.e[k] = p[(i + k) / 8 * stride + (i + k) % 8];
}
template <class T> MSL_DEVICE void simdgroup_store(simdgroup_matrix<T, 8, 8> m, T* p, ulong stride) {
  const uint i = element_of_lane();
  for (uint k = 0; k < 2; ++k) p[(i + k) / 8 * stride + (i + k) % 8] = m.e[k];
}
MSL_DEVICE void simdgroup_multiply_accumulate(
    simdgroup_float8x8& d, simdgroup_half8x8 a, simdgroup_half8x8 b, simdgroup_float8x8 c) {
  const uint i = element_of_lane();
  const uint row = i / 8, column = i % 8;
  float sum[2] = {c.e[0], c.e[1]};
  for (uint k = 0; k < 8; ++k) {
    const uint from_a = row * 8 + k;
    const float a0 = __shfl_sync(WARP, __half2float(a.e[0]), from_a / 2);
    const float a1 = __shfl_sync(WARP, __half2float(a.e[1]), from_a / 2);
    const float av = from_a % 2 == 0 ? a0 : a1;
    const uint from_b = (k * 8 + column) / 2;
    sum[0] += av * __shfl_sync(WARP, __half2float(b.e[0]), from_b);
    sum[1] += av * __shfl_sync(WARP, __half2float(b.e[1]), from_b);
  }
  d.e[0] = sum[0];
  d.e[1] = sum[1];
}

struct Thread {
  m_uint3 group;
  uint thread_index, lane, simdgroup_index, simdgroups;
};
MSL_DEVICE Thread this_thread() {
  return Thread{m_uint3(blockIdx.x, blockIdx.y, blockIdx.z), threadIdx.x, threadIdx.x & 31u, threadIdx.x >> 5, blockDim.x >> 5};
}

}  // namespace metal

// CUDA has vectors of these names in the global namespace; the kernels mean Metal's.
#define float2 metal::m_float2
#define float4 metal::m_float4
#define half2 metal::m_half2
#define half4 metal::m_half4
#define uint2 metal::m_uint2
#define uint3 metal::m_uint3
#define uint4 metal::m_uint4
#define short4 metal::m_short4
#define uchar4 metal::m_uchar4
#define char4 metal::m_char4
#define METAL_FUNC static __device__ __forceinline__
#define MSL_UNROLL _Pragma("unroll")
#define THREADGROUP_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
#define STORE_HALF4(pointer, value) (*reinterpret_cast<half4*>(pointer) = (value))
