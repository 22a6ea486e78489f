// A Metal compute grid on the CPU, and what the translated kernels see of it.
//
// Every thread is a fiber; 32 of them are a simdgroup; simdgroup operations and barriers are where fibers meet. Besides
// running the kernels it reports:
// - reads and writes outside a buffer or threadgroup array, or misaligned for the element;
// - two threads touching the same element without a barrier between, one of them writing (device and threadgroup);
// - reading threadgroup memory that nobody wrote; device memory starts as NaN;
// - simdgroup operations that not all 32 lanes reach, barriers that not all threads reach.
// It reports the first fault of a dispatch, with the line of the kernel text, and gives that dispatch up. A memory fault
// carries the line of the thread's last simdgroup operation or barrier: it lies after that one.
#pragma once
#include <string>
#include <vector>

#define MSL_FN inline
#include "../msl_types.h"

typedef _Float16 half;

namespace metal {
using float2 = vec<float, 2>;
using float4 = vec<float, 4>;
using half2 = vec<half, 2>;
using half4 = vec<half, 4>;
using uint2 = vec<uint, 2>;
using uint3 = vec<uint, 3>;
using uint4 = vec<uint, 4>;
using short4 = vec<short, 4>;
using uchar4 = vec<uchar, 4>;
using char4 = vec<signed char, 4>;
}  // namespace metal

namespace emu {

/** Who touched two bytes of a buffer, or one element of a threadgroup array, last. */
struct Trace {
  uint32_t write_dispatch = 0, read_dispatch = 0;
  uint32_t writer = 0, reader = 0;
  uint32_t write_epoch = 0, write_simd_epoch = 0, read_epoch = 0, read_simd_epoch = 0;
};
/** As a reader: threads of several simdgroups; or, with the simdgroup's number, several lanes of one. */
constexpr uint32_t MANY = 0xffffffffu;
constexpr uint32_t LANES = 0x80000000u;

struct Memory {
  std::string name;
  unsigned char* data = nullptr;
  size_t size = 0;
  /** Bytes that the dispatch loaded. */
  uint64_t loaded = 0;
  /** Set by the dispatcher where a dispatch binds the buffer as writable: only then can threads collide. */
  bool tracked = false;
  std::vector<Trace> traces;
};

/** What a kernel argument is bound to. */
struct Binding {
  Memory* memory = nullptr;
  size_t offset = 0;
};

struct Thread {
  metal::uint3 group;
  uint thread_index, lane, simdgroup_index, simdgroups;
};

struct Parameter {
  int index;
  const char* name;
  bool constant;    // an argument struct: setBytes
  bool writable;
  size_t element;   // bytes of an element, or of the struct
};

struct Kernel {
  const char* name;
  void (*call)(const Binding*, const Thread&);
  const Parameter* parameters;
  int parameter_count;
  size_t threadgroup_bytes;
};

[[noreturn]] void fail(const std::string& what, int line);
struct ThreadgroupArray;
void touch_tracked(Memory* memory, size_t offset, size_t size, bool write, int line);
inline void touch_device(Memory* memory, size_t offset, size_t size, bool write, int line) {
  if (memory->tracked) touch_tracked(memory, offset, size, write, line);
}
void touch_threadgroup(ThreadgroupArray& array, bool write, size_t index, int line);
void threadgroup_barrier(int line);

/** Brings the lanes of a simdgroup together: `resolve` runs once, over the 32 lanes' `payload`. */
void meet(int kind, int line, void* payload, void (*resolve)(void** lanes, uint seed));

/** Runs a whole grid. Returns the first fault, or an empty string. */
std::string dispatch(const Kernel& kernel, const Binding* bindings, metal::uint3 groups, uint threads, uint schedule);

extern uint64_t switches;
/** Threadgroups that stored nothing: a grid larger than its work. */
extern uint64_t idle_groups;
/** Did the running threadgroup store to a buffer? */
extern bool stored;
/** The planted fault that is turned on; 0: none. */
extern uint planted_fault;

// ---- pointers that check

template <class T> struct Pointer {
  Memory* memory = nullptr;
  size_t at = 0;  // bytes
  Pointer() = default;
  Pointer(const Binding& b) : memory(b.memory), at(b.offset) {}
  Pointer operator+(uint n) const { Pointer p = *this; p.at += size_t(n) * sizeof(T); return p; }

  struct Element {
    Memory* memory;
    size_t at;
    int line;
    operator T() const { return load(memory, at, line); }
    void operator=(T v) const {
      check(memory, at, line);
      touch_device(memory, at, sizeof(T), true, line);
      stored = true;
      memcpy(memory->data + at, &v, sizeof(T));
    }
    void operator=(const Element& e) const { *this = T(e); }
  };
  static void check(Memory* memory, size_t at, int line) {
    if (memory == nullptr) fail("access through a buffer that is not bound", line);
    if (at % alignof(T) != 0) fail("misaligned access at byte " + std::to_string(at) + " of " + memory->name, line);
    if (at > memory->size || memory->size - at < sizeof(T)) {
      fail("access at byte " + std::to_string(at) + " of " + memory->name + ", which has " + std::to_string(memory->size), line);
    }
  }
  static T load(Memory* memory, size_t at, int line) {
    check(memory, at, line);
    touch_device(memory, at, sizeof(T), false, line);
    memory->loaded += sizeof(T);
    T v;
    memcpy(&v, memory->data + at, sizeof(T));
    return v;
  }
};

/** Line of the running fiber's last simdgroup operation or barrier: operator[] cannot learn its own. */
extern int current_line;

template <class T> struct DevicePointer : Pointer<T> {
  using Pointer<T>::Pointer;
  DevicePointer() = default;
  DevicePointer(const Pointer<T>& p) : Pointer<T>(p) {}
  typename Pointer<T>::Element operator[](uint n) const {
    return {this->memory, this->at + size_t(n) * sizeof(T), current_line};
  }
  DevicePointer operator+(uint n) const { return Pointer<T>::operator+(n); }
};
template <class T> struct DevicePointer<const T> : Pointer<T> {
  DevicePointer() = default;
  DevicePointer(const Binding& b) : Pointer<T>(b) {}
  DevicePointer(const Pointer<T>& p) : Pointer<T>(p) {}
  T operator[](uint n) const { return Pointer<T>::load(this->memory, this->at + size_t(n) * sizeof(T), current_line); }
  DevicePointer operator+(uint n) const { return Pointer<T>::operator+(n); }
};

struct ThreadgroupArray {
  const char* name;
  std::vector<Trace> traces;
  /** By the running threadgroup; else the traces are those of nobody. */
  bool touched = false;
  ThreadgroupArray(const char* name, size_t count);
};

template <class T> struct ThreadgroupPointer {
  ThreadgroupArray* array = nullptr;
  T* data = nullptr;
  size_t at = 0;
  ThreadgroupPointer operator+(uint n) const { ThreadgroupPointer p = *this; p.at += n; return p; }
  struct Element {
    ThreadgroupPointer p;
    int line;
    operator T() const { return p.load(line); }
    void operator=(T v) const { p.store(v, line); }
    void operator=(const Element& e) const { *this = T(e); }
  };
  Element operator[](uint n) const { return {*this + n, current_line}; }
  void check(int line) const {
    if (at >= array->traces.size()) {
      fail("element " + std::to_string(at) + " of threadgroup array " + array->name + ", which has " +
           std::to_string(array->traces.size()), line);
    }
  }
  T load(int line) const { check(line); touch_threadgroup(*array, false, at, line); return data[at]; }
  void store(T v, int line) const { check(line); touch_threadgroup(*array, true, at, line); data[at] = v; }
};

template <class T, size_t N> struct Threadgroup : ThreadgroupArray {
  T values[N];
  Threadgroup(const char* name) : ThreadgroupArray(name, N) { memset((void*)values, 0xff, sizeof values); }
  operator ThreadgroupPointer<T>() { return {this, values, 0}; }
  ThreadgroupPointer<T> operator+(uint n) { return ThreadgroupPointer<T>{this, values, 0} + n; }
  typename ThreadgroupPointer<T>::Element operator[](uint n) { return ThreadgroupPointer<T>{this, values, 0}[n]; }
};

}  // namespace emu

namespace metal {

// ---- simdgroup operations; `line` is filled in at the call

template <class T> struct Exchange { T in, out; uint lane; };

template <class T> inline void sum_lanes(void** lanes, uint seed) {
  // Hardware does not promise an order of summation: vary it with the schedule.
  T parts[32];
  for (uint i = 0; i < 32; ++i) parts[i] = ((Exchange<T>*)lanes[i])->in;
  T total;
  if (seed % 3 == 0) {
    for (uint half = 16; half > 0; half /= 2) for (uint i = 0; i < half; ++i) parts[i] = parts[i] + parts[i + half];
    total = parts[0];
  } else if (seed % 3 == 1) {
    total = parts[0];
    for (uint i = 1; i < 32; ++i) total = total + parts[i];
  } else {
    for (uint step = 1; step < 32; step *= 2) for (uint i = 0; i < 32; i += 2 * step) parts[i] = parts[i + step] + parts[i];
    total = parts[0];
  }
  for (uint i = 0; i < 32; ++i) ((Exchange<T>*)lanes[i])->out = total;
}
template <class T> inline void max_lanes(void** lanes, uint) {
  T best = ((Exchange<T>*)lanes[0])->in;
  for (uint i = 1; i < 32; ++i) best = max(best, ((Exchange<T>*)lanes[i])->in);
  for (uint i = 0; i < 32; ++i) ((Exchange<T>*)lanes[i])->out = best;
}
template <class T> inline void shuffle_lanes(void** lanes, uint) {
  for (uint i = 0; i < 32; ++i) {
    auto* e = (Exchange<T>*)lanes[i];
    e->out = e->lane < 32 ? ((Exchange<T>*)lanes[e->lane])->in : e->in;
  }
}
template <class T> inline void xor_lanes(void** lanes, uint) {
  for (uint i = 0; i < 32; ++i) {
    auto* e = (Exchange<T>*)lanes[i];
    e->out = ((Exchange<T>*)lanes[(i ^ e->lane) & 31])->in;
  }
}
#define EMU_LINE int line = __builtin_LINE()
template <class T> inline T simd_sum(T v, EMU_LINE) {
  Exchange<T> e{v, v, 0};
  emu::meet(1, line, &e, sum_lanes<T>);
  return e.out;
}
inline float4 simd_sum(float4 v, EMU_LINE) {
  return float4(simd_sum(v.x, line), simd_sum(v.y, line), simd_sum(v.z, line), simd_sum(v.w, line));
}
template <class T> inline T simd_max(T v, EMU_LINE) {
  Exchange<T> e{v, v, 0};
  emu::meet(2, line, &e, max_lanes<T>);
  return e.out;
}
template <class T> inline T simd_shuffle(T v, ushort lane, EMU_LINE) {
  if (lane > 31) emu::fail("simd_shuffle from lane " + std::to_string(lane), line);
  Exchange<T> e{v, v, lane};
  emu::meet(3, line, &e, shuffle_lanes<T>);
  return e.out;
}
template <class T> inline T simd_shuffle_xor(T v, ushort mask, EMU_LINE) {
  if (mask > 31) emu::fail("simd_shuffle_xor by " + std::to_string(mask), line);
  Exchange<T> e{v, v, mask};
  emu::meet(4, line, &e, xor_lanes<T>);
  return e.out;
}
inline void threadgroup_barrier(mem_flags flags, EMU_LINE) {
  if (flags != mem_flags::mem_threadgroup) emu::fail("only threadgroup memory barriers are known here", line);
  emu::threadgroup_barrier(line);
}
inline void nothing(void**, uint) {}
inline void simdgroup_barrier(mem_flags flags, EMU_LINE) {
  if (flags != mem_flags::mem_threadgroup) emu::fail("only threadgroup memory barriers are known here", line);
  emu::meet(5, line, nullptr, nothing);
}

// ---- 8 x 8 matrices over a simdgroup: lane i holds elements 2 i and 2 i + 1, row by row

uint lane_now();

template <class T, int C, int R> struct simdgroup_matrix {
  static_assert(C == 8 && R == 8, "Metal has 8 x 8 matrices only");
  T e[2];
};
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;

template <class T, int C, int R> inline simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T v) { return {{v, v}}; }
template <class T> inline void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, emu::ThreadgroupPointer<T> p, ulong stride, EMU_LINE) {
  emu::meet(6, line, nullptr, nothing);
  const uint i = lane_now() * 2;
  for (uint k = 0; k < 2; ++k) m.e[k] = (p + uint((i + k) / 8 * stride + (i + k) % 8)).load(line);
}
template <class T> inline void simdgroup_store(simdgroup_matrix<T, 8, 8> m, emu::ThreadgroupPointer<T> p, ulong stride, EMU_LINE) {
  emu::meet(7, line, nullptr, nothing);
  const uint i = lane_now() * 2;
  for (uint k = 0; k < 2; ++k) (p + uint((i + k) / 8 * stride + (i + k) % 8)).store(m.e[k], line);
}
struct Multiply { half a[2], b[2]; float c[2], d[2]; };
void multiply_lanes(void** lanes, uint seed);
inline void simdgroup_multiply_accumulate(
    simdgroup_float8x8& d, simdgroup_half8x8 a, simdgroup_half8x8 b, simdgroup_float8x8 c, EMU_LINE) {
  Multiply m{{a.e[0], a.e[1]}, {b.e[0], b.e[1]}, {c.e[0], c.e[1]}, {0, 0}};
  emu::meet(8, line, &m, multiply_lanes);
  d.e[0] = m.d[0];
  d.e[1] = m.d[1];
}
#undef EMU_LINE

}  // namespace metal

/** Asked by kernels that a test put faults into: has it turned on this one? */
inline bool planted(uint number) { return emu::planted_fault == number; }

#define METAL_FUNC static inline
#define MSL_UNROLL
#define THREADGROUP_ARRAY(type, name, count) static emu::Threadgroup<type, (count)> name(#name)
#define STORE_HALF4(pointer, value)                                            \
  do {                                                                         \
    const auto store_to = (pointer);                                           \
    const half4 store_value = (value);                                         \
    if (store_to.at % 4 != 0) emu::fail("misaligned half4", emu::current_line); \
    store_to[0] = store_value.x;                                               \
    store_to[1] = store_value.y;                                               \
    store_to[2] = store_value.z;                                               \
    store_to[3] = store_value.w;                                               \
  } while (0)
