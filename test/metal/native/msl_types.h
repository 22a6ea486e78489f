// The vector types and functions of the Metal shading language that our kernels use, as plain C++. Shared by the grid
// emulator (g++) and the CUDA build (nvcc), which say in MSL_FN how functions are declared before they include it.
// It offers no more than Metal does: mixed-type max, implicit narrowing of vectors and the like must not compile here.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;

namespace metal {

template <class T, int N> struct vec;

template <class T> struct alignas(2 * sizeof(T)) vec<T, 2> {
  T x, y;
  vec() = default;
  MSL_FN vec(T a, T b) : x(a), y(b) {}
};
template <class T> struct vec<T, 3> {
  T x, y, z;
  vec() = default;
  MSL_FN vec(T a, T b, T c) : x(a), y(b), z(c) {}
};
template <class T> struct alignas(4 * sizeof(T)) vec<T, 4> {
  T x, y, z, w;
  vec() = default;
  MSL_FN explicit vec(T a) : x(a), y(a), z(a), w(a) {}
  MSL_FN vec(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
  template <class U> MSL_FN explicit vec(vec<U, 4> v) : x(T(float(v.x))), y(T(float(v.y))), z(T(float(v.z))), w(T(float(v.w))) {}
};

#define MSL_BINARY(op)                                                                                     \
  template <class T> MSL_FN vec<T, 4> operator op(vec<T, 4> a, vec<T, 4> b) {                              \
    return vec<T, 4>(a.x op b.x, a.y op b.y, a.z op b.z, a.w op b.w);                                      \
  }                                                                                                        \
  template <class T> MSL_FN vec<T, 4> operator op(vec<T, 4> a, T b) { return a op vec<T, 4>(b); }          \
  template <class T> MSL_FN vec<T, 4> operator op(T a, vec<T, 4> b) { return vec<T, 4>(a) op b; }          \
  template <class T> MSL_FN vec<T, 4>& operator op##=(vec<T, 4>& a, vec<T, 4> b) { a = a op b; return a; }
MSL_BINARY(+)
MSL_BINARY(-)
MSL_BINARY(*)
MSL_BINARY(/)
#undef MSL_BINARY

template <class T> MSL_FN T dot(vec<T, 4> a, vec<T, 4> b) { return (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w); }
MSL_FN vec<float, 4> floor(vec<float, 4> a) {
  return vec<float, 4>(::floorf(a.x), ::floorf(a.y), ::floorf(a.z), ::floorf(a.w));
}
template <class To, class From> MSL_FN To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type needs types of one size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
MSL_FN float fabs(float a) { return ::fabsf(a); }
MSL_FN float rint(float a) { return ::rintf(a); }
MSL_FN float sqrt(float a) { return ::sqrtf(a); }
MSL_FN float exp(float a) { return ::expf(a); }
MSL_FN float log(float a) { return ::logf(a); }
MSL_FN float max(float a, float b) { return ::fmaxf(a, b); }
MSL_FN float min(float a, float b) { return ::fminf(a, b); }
MSL_FN uint max(uint a, uint b) { return a < b ? b : a; }
MSL_FN uint min(uint a, uint b) { return b < a ? b : a; }
MSL_FN float clamp(float v, float low, float high) { return v < low ? low : high < v ? high : v; }

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };

}  // namespace metal
