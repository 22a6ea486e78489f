// What the kernels use of CUDA, under names that the emulator of test/cuda can give too (test/cuda/native/emulator.h): the
// same text runs on a GPU and, thread after thread, on a CPU. Needs sm_80. Compiled with -fmad=false: one rounding an
// operation.
#pragma once

#ifndef BITNET_EMULATOR
#include <cstdint>

using u32 = uint32_t;
using u64 = uint64_t;
using i32 = int32_t;

#define DEVICE __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
/** Of its own: what is large, or rare. */
#define APART static __device__ __noinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(512, 1)
/** Of half as many threads, each with twice the registers: the launch asks the driver how many a kernel's blocks have. */
#define KERNEL_OF_256 extern "C" __global__ void __launch_bounds__(256, 1)
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define TILES_KERNEL KERNEL_OF_256
#else
#define TILES_KERNEL KERNEL
#endif
/** What a launch brings with it. */
#define GIVEN const __grid_constant__
#define UNROLL _Pragma("unroll")
#define UNROLL4 _Pragma("unroll 4")
#define UNROLL2 _Pragma("unroll 2")
/** A loop of code that all wait for: as short as it is. */
#define ROLLED _Pragma("unroll 1")

struct alignas(16) Words {
  u32 x, y, z, w;
};
struct alignas(16) Floats {
  float x, y, z, w;
};
struct alignas(8) Pair {
  float x, y;
};

extern __shared__ __align__(1024) char block_memory[];
DEVICE char* shared_memory() { return block_memory; }
DEVICE u32 shared_size() {
  u32 v;
  asm("mov.u32 %0,%%dynamic_smem_size;" : "=r"(v));
  return v;
}
DEVICE u32 thread() { return threadIdx.x; }
/** Asked anew each time: what a compiler makes of it once for all instructions of a kernel has registers all the time. */
DEVICE u32 thread_anew() {
  u32 v;
  asm volatile("mov.u32 %0,%%tid.x;" : "=r"(v));
  return v;
}
DEVICE u32 block() { return blockIdx.x; }
DEVICE u32 block_y() { return blockIdx.y; }
DEVICE u32 blocks() { return gridDim.x; }
DEVICE void sync() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
/** A barrier of four warps, the `which`th four of the block. */
DEVICE void sync_four(u32 which) { asm volatile("bar.sync %0,128;" ::"r"(which + 1) : "memory"); }
/** Of eight. */
DEVICE void sync_half(u32 which) { asm volatile("bar.sync %0,256;" ::"r"(which + 5) : "memory"); }
/** Of some of a block's warps, so many threads; WHICH: of the hardware's barriers behind those. */
template <u32 WHICH> DEVICE void meet(u32 threads) { asm volatile("bar.sync %0,%1;" ::"n"(WHICH + 7), "r"(threads) : "memory"); }
/** Counts as there, but does not wait. */
template <u32 WHICH> DEVICE void tell(u32 threads) { asm volatile("bar.arrive %0,%1;" ::"n"(WHICH + 7), "r"(threads) : "memory"); }

DEVICE u32 bits(float x) { return __float_as_uint(x); }
DEVICE float from_bits(u32 x) { return __uint_as_float(x); }
DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
/** Of NaN and a number the number. */
DEVICE float larger_float(float a, float b) { return fmaxf(a, b); }
/** NaN of NaN and a number. */
DEVICE float larger_or_nan(float a, float b) {
  float v;
  asm("max.NaN.f32 %0,%1,%2;" : "=f"(v) : "f"(a), "f"(b));
  return v;
}
DEVICE float absolute(float a) { return fabsf(a); }
DEVICE float root(float a) { return __fsqrt_rn(a); }
DEVICE i32 nearest(float x) { return __float2int_rn(x); }
/** Half to even, of what is not negative. */
DEVICE u64 nearest64(float x) { return __float2ull_rn(x); }
DEVICE float half_float(u32 h) {
  float f;
  asm("{.reg .b16 h; cvt.u16.u32 h,%1; cvt.f32.f16 %0,h;}" : "=f"(f) : "r"(h));
  return f;
}

DEVICE float shuffle_down(float v, u32 by) { return __shfl_down_sync(~0u, v, by, 16); }
DEVICE i32 shuffle_xor(i32 v, u32 by) { return __shfl_xor_sync(~0u, v, by); }
DEVICE i32 broadcast16(i32 v) { return __shfl_sync(~0u, v, 0, 16); }
DEVICE u32 warp_max(u32 v) { return __reduce_max_sync(~0u, v); }
DEVICE i32 warp_sum(i32 v) { return __reduce_add_sync(~0u, v); }

/** What other blocks wrote: from the L2 cache. */
template <class T> DEVICE T load(const T* p) { return __ldcg(p); }
DEVICE Words load(const Words* p) {
  const uint4 v = __ldcg((const uint4*)p);
  return {v.x, v.y, v.z, v.w};
}
DEVICE Floats load(const Floats* p) {
  const float4 v = __ldcg((const float4*)p);
  return {v.x, v.y, v.z, v.w};
}
/** Weights: read once, never written. Volatile, so that a load stays before the barrier where it was put. */
DEVICE Words stream(const void* p) {
  Words v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
DEVICE u64 stream8(const void* p) {
  u64 v;
  asm volatile("ld.global.nc.L1::no_allocate.u64 %0,[%1];" : "=l"(v) : "l"(p));
  return v;
}
DEVICE float stream_float(const float* p) {
  float v;
  asm volatile("ld.global.nc.f32 %0,[%1];" : "=f"(v) : "l"(p));
  return v;
}
DEVICE void fetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

/** 16 bytes into shared memory without waiting; what was asked for so far is a group, and all but the newest have come. */
DEVICE void copy_ahead(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
DEVICE void copies_asked() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int NEWEST> DEVICE void copies_there() { asm volatile("cp.async.wait_group %0;" ::"n"(NEWEST) : "memory"); }
/** The same for a number that is known late, up to 8. */
DEVICE void copies_there_but(u32 newest) {
  switch (newest) {
    case 0: copies_there<0>(); break;
    case 1: copies_there<1>(); break;
    case 2: copies_there<2>(); break;
    case 3: copies_there<3>(); break;
    case 4: copies_there<4>(); break;
    case 5: copies_there<5>(); break;
    case 6: copies_there<6>(); break;
    case 7: copies_there<7>(); break;
    default: copies_there<8>();
  }
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
/** Can one thread ask for a whole stretch? An `Arrival` then tells when all of it has come. */
DEVICE constexpr bool bulk_copies() { return true; }
DEVICE u32 in_shared(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE void begin_arrival(u64* arrival, u32 tellers) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0],%1;" ::"r"(in_shared(arrival)), "r"(tellers) : "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/** One of the tellers: how many bytes it asks for. */
DEVICE void expect(u64* arrival, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(in_shared(arrival)), "r"(bytes) : "memory");
}
/** Whole 16 bytes. */
DEVICE void copy_bulk(void* to, const void* from, u32 bytes, u64* arrival) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::"r"(in_shared(to)), "l"(from), "r"(bytes), "r"(in_shared(arrival))
               : "memory");
}
/** Waits for what was asked for the `parity`th time, modulo 2. */
DEVICE void await_bulk(u64* arrival, u32 parity) {
  u32 there;
  do asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p,[%1],%2; selp.u32 %0,1,0,p;}" : "=r"(there) : "r"(in_shared(arrival)), "r"(parity) : "memory");
  while (!there);
}
/** Into the L2 cache. */
DEVICE void fetch_bulk(const void* from, u32 bytes) { asm volatile("cp.async.bulk.prefetch.L2.global [%0],%1;" ::"l"(from), "r"(bytes) : "memory"); }
/** What was written to shared memory, by whoever it was before a barrier, comes before stretches that this thread asks for. */
DEVICE void before_bulk() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/** And what was written to the device's memory. */
DEVICE void before_bulk_of_all() { asm volatile("fence.proxy.async;" ::: "memory"); }
#else
DEVICE constexpr bool bulk_copies() { return false; }
DEVICE void begin_arrival(u64*, u32) {}
DEVICE void expect(u64*, u32) {}
DEVICE void copy_bulk(void*, const void*, u32, u64*) {}
DEVICE void await_bulk(u64*, u32) {}
DEVICE void fetch_bulk(const void*, u32) {}
DEVICE void before_bulk() {}
DEVICE void before_bulk_of_all() {}
#endif

DEVICE void add_shared(i32* p, i32 v) { atomicAdd(p, v); }
DEVICE void max_shared(u32* p, u32 v) { atomicMax(p, v); }
DEVICE u32 take_shared(u32* p) { return atomicAdd(p, 1); }
DEVICE u32 add_global(u32* p, u32 v) { return atomicAdd(p, v); }
DEVICE void add_global64(u64* p, u64 v) { atomicAdd((unsigned long long*)p, (unsigned long long)v); }
DEVICE void fence() { __threadfence(); }

/** One of the grid's barriers: a thread says that its block is there, one waits for the others. */
DEVICE void arrive(u32* p) {
  asm volatile("red.release.gpu.global.add.u32 [%0],1;" ::"l"(p) : "memory");
}
DEVICE void await(u32* p, u32 target) {
  u32 v;
  do asm volatile("ld.acquire.gpu.global.u32 %0,[%1];" : "=r"(v) : "l"(p) : "memory");
  while ((i32)(v - target) < 0);
}

/**
 * A float that one block of the grid gives another within an instruction: with a tag, in one piece, so that whoever finds the
 * tag has the float. No other write is ordered by it.
 */
DEVICE void publish(u64* p, float v, u32 tag) {
  asm volatile("st.relaxed.gpu.global.u64 [%0],%1;" ::"l"(p), "l"((u64)tag << 32 | bits(v)) : "memory");
}
DEVICE float receive(const u64* p, u32 tag) {
  u64 v;
  do asm volatile("ld.relaxed.gpu.global.u64 %0,[%1];" : "=l"(v) : "l"(p) : "memory");
  while ((u32)(v >> 32) != tag);
  return from_bits((u32)v);
}
/** Of N places each, so far apart, of which n are told: all at once; 0 behind them. */
template <u32 N> DEVICE void receive_both(float (&a)[N], const u64* p, u32 apart, float (&b)[N], const u64* q, u32 apart_too, u32 n, u32 tag) {
  u64 x[N], y[N];
  bool there;
  do {
    UNROLL for (u32 k = 0; k < N; k++) {
      x[k] = y[k] = 0;
      if (k >= n) continue;
      asm volatile("ld.relaxed.gpu.global.u64 %0,[%1];" : "=l"(x[k]) : "l"(p + k * apart) : "memory");
      asm volatile("ld.relaxed.gpu.global.u64 %0,[%1];" : "=l"(y[k]) : "l"(q + k * apart_too) : "memory");
    }
    there = true;
    UNROLL for (u32 k = 0; k < N; k++) {
      if (k < n) there = there && (u32)(x[k] >> 32) == tag && (u32)(y[k] >> 32) == tag;
    }
  } while (!there);
  UNROLL for (u32 k = 0; k < N; k++) a[k] = k < n ? from_bits((u32)x[k]) : 0.0f, b[k] = k < n ? from_bits((u32)y[k]) : 0.0f;
}

/**
 * Launches that overlap (sm_90): the next one's blocks may begin, and ask for what no kernel writes; what the kernels before this one
 * wrote is read, and anything is written, only behind `wait_for_earlier`, which every kernel has.
 */
DEVICE void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
DEVICE void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/** Four bytes of a (0 to 3) and b (4 to 7), by four digits of `which`, the lowest first. */
DEVICE u32 bytes_of(u32 a, u32 b, u32 which) { return __byte_perm(a, b, which); }
/** sum + the products of four signed bytes. */
DEVICE i32 dot4(u32 a, u32 b, i32 sum) { return __dp4a((i32)a, (i32)b, sum); }
/** The same of bytes a that have no sign. */
DEVICE i32 dot4_u8(u32 a, u32 b, i32 sum) {
  asm("dp4a.u32.s32 %0,%1,%2,%0;" : "+r"(sum) : "r"(a), "r"(b));
  return sum;
}

/** d (16 x 8) += a (16 x 32, bytes 0..255) b (32 x 8, bytes -128..127). */
DEVICE void mma_u8(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
DEVICE void mma_s8(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/** Do four warps multiply together (wgmma)? Only in machine code for 9.0, of which no other card can run a word. */
DEVICE constexpr bool four_warps() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  return true;
#else
  return false;
#endif
}
/** Where in shared memory such tiles may begin. */
DEVICE char* tile_place(char* p) {
  const u32 at = (u32)__cvta_generic_to_shared(p);
  return p + ((at + 1023) / 1024 * 1024 - at);
}
/** Copies that have come are for them, too. */
DEVICE void copies_for_tiles() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
/** `a`: what is multiplied from registers, which have to be written before. */
DEVICE void mma_begin(u32 (&a)[2][4]) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;"
               : "+r"(a[0][0]), "+r"(a[0][1]), "+r"(a[0][2]), "+r"(a[0][3]), "+r"(a[1][0]), "+r"(a[1][1]), "+r"(a[1][2]), "+r"(a[1][3])::"memory");
#endif
}
/** Until here, behind a `mma_done`, nothing else may come into the registers that were multiplied. */
DEVICE void mma_kept(u32 (&a)[2][4]) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("" : "+r"(a[0][0]), "+r"(a[0][1]), "+r"(a[0][2]), "+r"(a[0][3]), "+r"(a[1][0]), "+r"(a[1][1]), "+r"(a[1][2]), "+r"(a[1][3])::"memory");
#endif
}
/** What was asked for since mma_begin belongs together; `mma_done`: all but the NEWEST of such groups have been multiplied. */
DEVICE void mma_asked() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int NEWEST> DEVICE void mma_done() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(NEWEST) : "memory");
#endif
}
/**
 * d (64 x N, 16 of a warp's rows; as N / 8 of mma_u8) += a (64 x 32, as of mma_u8) b (32 x N, signed): columns 32 `step` .. of N rows of
 * 128 bytes in shared memory, whose sixteen bytes i lie at i ^ row % 8. Between mma_begin and mma_asked, which four warps pass together;
 * d is there once it is done, and b until then.
 */
template <u32 N> DEVICE void mma_four(i32 (&d)[N / 8][4], const u32 (&a)[4], const char* b, u32 step) {
  static_assert(N == 96 || N == 128, "written out below");
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  // Address and distance of eight rows in sixteens of bytes; 128 bytes are permuted.
  const u64 at = (u32)__cvta_generic_to_shared(b) / 16 + 2 * step | 1ull << 16 | 64ull << 32 | 1ull << 62;
  if constexpr (N == 128) {
    asm volatile(
        "{.reg .pred p;\nsetp.ne.b32 p,1,0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k32.s32.u8.s8 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
        "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
        "},{%64,%65,%66,%67},%68,p;}"
        : "+r"(d[0][0]), "+r"(d[0][1]), "+r"(d[0][2]), "+r"(d[0][3]), "+r"(d[1][0]), "+r"(d[1][1]), "+r"(d[1][2]), "+r"(d[1][3]),
          "+r"(d[2][0]), "+r"(d[2][1]), "+r"(d[2][2]), "+r"(d[2][3]), "+r"(d[3][0]), "+r"(d[3][1]), "+r"(d[3][2]), "+r"(d[3][3]),
          "+r"(d[4][0]), "+r"(d[4][1]), "+r"(d[4][2]), "+r"(d[4][3]), "+r"(d[5][0]), "+r"(d[5][1]), "+r"(d[5][2]), "+r"(d[5][3]),
          "+r"(d[6][0]), "+r"(d[6][1]), "+r"(d[6][2]), "+r"(d[6][3]), "+r"(d[7][0]), "+r"(d[7][1]), "+r"(d[7][2]), "+r"(d[7][3]),
          "+r"(d[8][0]), "+r"(d[8][1]), "+r"(d[8][2]), "+r"(d[8][3]), "+r"(d[9][0]), "+r"(d[9][1]), "+r"(d[9][2]), "+r"(d[9][3]),
          "+r"(d[10][0]), "+r"(d[10][1]), "+r"(d[10][2]), "+r"(d[10][3]), "+r"(d[11][0]), "+r"(d[11][1]), "+r"(d[11][2]), "+r"(d[11][3]),
          "+r"(d[12][0]), "+r"(d[12][1]), "+r"(d[12][2]), "+r"(d[12][3]), "+r"(d[13][0]), "+r"(d[13][1]), "+r"(d[13][2]), "+r"(d[13][3]),
          "+r"(d[14][0]), "+r"(d[14][1]), "+r"(d[14][2]), "+r"(d[14][3]), "+r"(d[15][0]), "+r"(d[15][1]), "+r"(d[15][2]), "+r"(d[15][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(at));
  } else {
    asm volatile(
        "{.reg .pred p;\nsetp.ne.b32 p,1,0;\n"
        "wgmma.mma_async.sync.aligned.m64n96k32.s32.u8.s8 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
        "},{%48,%49,%50,%51},%52,p;}"
        : "+r"(d[0][0]), "+r"(d[0][1]), "+r"(d[0][2]), "+r"(d[0][3]), "+r"(d[1][0]), "+r"(d[1][1]), "+r"(d[1][2]), "+r"(d[1][3]),
          "+r"(d[2][0]), "+r"(d[2][1]), "+r"(d[2][2]), "+r"(d[2][3]), "+r"(d[3][0]), "+r"(d[3][1]), "+r"(d[3][2]), "+r"(d[3][3]),
          "+r"(d[4][0]), "+r"(d[4][1]), "+r"(d[4][2]), "+r"(d[4][3]), "+r"(d[5][0]), "+r"(d[5][1]), "+r"(d[5][2]), "+r"(d[5][3]),
          "+r"(d[6][0]), "+r"(d[6][1]), "+r"(d[6][2]), "+r"(d[6][3]), "+r"(d[7][0]), "+r"(d[7][1]), "+r"(d[7][2]), "+r"(d[7][3]),
          "+r"(d[8][0]), "+r"(d[8][1]), "+r"(d[8][2]), "+r"(d[8][3]), "+r"(d[9][0]), "+r"(d[9][1]), "+r"(d[9][2]), "+r"(d[9][3]),
          "+r"(d[10][0]), "+r"(d[10][1]), "+r"(d[10][2]), "+r"(d[10][3]), "+r"(d[11][0]), "+r"(d[11][1]), "+r"(d[11][2]), "+r"(d[11][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(at));
  }
#endif
}
#else
#include "emulator.h"
#endif

/** exp as engine/js/math.ts has it, of what has a finite one above 0, or of NaN. */
DEVICE float exp_between(float x) {
  const float magic = 12582912.0f;
  const float n = (x * 1.44269504088896340736f + magic) - magic;
  const float r = (x - n * 0.693359375f) - n * (float)(0.69314718055994530942 - 0.693359375);
  float p = (float)(1.0 / 5040);
  p = p * r + (float)(1.0 / 720);
  p = p * r + (float)(1.0 / 120);
  p = p * r + (float)(1.0 / 24);
  p = p * r + (float)(1.0 / 6);
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const i32 k = (i32)n, half = k >> 1;
  const float y = p * from_bits((u32)(half + 127) << 23);
  return y * from_bits((u32)(k - half + 127) << 23);
}
/** Of any x. */
DEVICE float exp_f32(float x) {
  if (!(x <= 88.72283f)) return x > 88.72283f ? from_bits(0x7f800000) : from_bits(0x7fc00000);
  return x < -87.33654f ? 0.0f : exp_between(x);
}
/** Of what is not above 0, or NaN: the same bits, without a branch. */
DEVICE float exp_below(float x) {
  const float y = exp_between(x < -88.0f ? -88.0f : x);
  return x < -87.33654f ? 0.0f : y;
}
