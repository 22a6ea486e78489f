// What every kernel file shares. The host joins the files in the order of `src/engine/metal/shaders.ts` and compiles the
// text at run time, so there are no includes between them.
//
// House rules, because the same text also runs in the grid emulator, compiles as CUDA and is type-checked as C++ for
// OpenCL (docs/metal.md): threadgroup arrays through THREADGROUP_ARRAY and in kernels only; swizzles .x .y .z .w only;
// an element of a device or threadgroup array is read into a local before it meets a template function; all 32 lanes of
// a simdgroup reach every simdgroup operation.
//
// Memory: a row of activations has `stride` elements, its width rounded up to 16, and the elements past the width are
// zero; weights likewise. So inner loops run over whole vectors and never look at the width.
#include <metal_stdlib>
using namespace metal;

#ifdef __METAL_VERSION__
// One rounding per operation, as in the reference: a fused multiply-add would change bits.
#pragma METAL fp contract(off)
#endif

#ifndef METAL_FUNC
#define METAL_FUNC inline __attribute__((__always_inline__))
#endif
#ifndef THREADGROUP_ARRAY
// Aligned, because halves are also stored four at a time.
#define THREADGROUP_ARRAY(type, name, count) alignas(16) threadgroup type name[count]
#endif
#ifndef MSL_UNROLL
#define MSL_UNROLL _Pragma("clang loop unroll(full)")
#endif

/** Where a thread stands in its threadgroup. */
struct Place {
    uint thread_index;
    uint threads;
    uint lane;
    uint simdgroup_index;
    uint simdgroups;
};

METAL_FUNC Place place_of(uint thread_index, uint lane, uint simdgroup_index, uint simdgroups) {
    Place p;
    p.thread_index = thread_index;
    p.threads = simdgroups * 32u;
    p.lane = lane;
    p.simdgroup_index = simdgroup_index;
    p.simdgroups = simdgroups;
    return p;
}

// Reductions over a threadgroup with one barrier each. `scratch` has 32 elements that no earlier reduction of the
// dispatch used: a region of its own is cheaper than the barrier that guards a reused one.

METAL_FUNC float threadgroup_sum(float v, threadgroup float* scratch, Place p) {
    const float total = simd_sum(v);
    if (p.lane == 0u) { scratch[p.simdgroup_index] = total; }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float part = 0.0f;
    if (p.lane < p.simdgroups) { part = scratch[p.lane]; }
    return simd_sum(part);
}

METAL_FUNC uint threadgroup_max(uint v, threadgroup uint* scratch, Place p) {
    const uint largest = simd_max(v);
    if (p.lane == 0u) { scratch[p.simdgroup_index] = largest; }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint part = 0u;
    if (p.lane < p.simdgroups) { part = scratch[p.lane]; }
    return simd_max(part);
}

/** The four bytes of a word as floats, lowest first. */
METAL_FUNC float4 bytes_of(uint word) {
    return float4(as_type<uchar4>(word));
}
METAL_FUNC float4 signed_bytes_of(uint word) {
    return float4(as_type<char4>(word));
}
