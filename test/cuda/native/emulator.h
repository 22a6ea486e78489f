// The names of kernels/cuda/device.cuh on a CPU. Every thread of every block of a launch is a fiber; they take turns at
// barriers and at operations of a warp, in an order that FAKE_CUDA_SCHEDULE changes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include <emmintrin.h>

using u32 = uint32_t;
using u64 = uint64_t;
using i32 = int32_t;

#define DEVICE static inline
#define DEVICE_MEMBER inline
#define APART static
#define KERNEL extern "C" void
#define KERNEL_OF_256 extern "C" void
#define TILES_KERNEL extern "C" void
#define GIVEN const
#define UNROLL
#define UNROLL4
#define UNROLL2
#define ROLLED

struct alignas(16) Words {
  u32 x, y, z, w;
};
struct alignas(16) Floats {
  float x, y, z, w;
};
struct alignas(8) Pair {
  float x, y;
};

namespace emulator {
struct Warp {
  u32 arrived = 0, generation = 0;
  u32 words[2][32][6];
};
struct Block {
  u32 index = 0, threads = 512, arrived = 0, generation = 0;
  u32 some[11] = {}, some_generations[11] = {};
  char* memory = nullptr;
  Warp warps[16];
  /** Stretches that were asked for and have not come. */
  struct Stretch {
    void* to;
    const void* from;
    u32 bytes;
    u64* arrival;
  };
  std::vector<Stretch> stretches;
};
/** Of warps in fours: what is multiplied when somebody waits for it. */
struct Product {
  i32 (*d)[4];
  u32 eights, a[4][4];
  const char* b;
  u32 step;
};
struct Fiber {
  void* stack_pointer = nullptr;
  Block* block = nullptr;
  u32 thread = 0;
  // Waits while *word == value, or while *count is before target.
  const volatile u32* word = nullptr;
  u32 value = 0;
  const volatile u32* count = nullptr;
  u32 target = 0;
  bool done = false, waited = false;
  /** Copies that were asked for and have not come; those of a group end at its mark. */
  struct Copy {
    void* to;
    const void* from;
  };
  std::vector<Copy> copies;
  std::vector<size_t> groups;
  std::vector<Product> products;
  std::vector<size_t> product_groups;
};
extern Fiber* now;
extern u32 grid, shared_bytes;
/** Copies come when they are waited for, and not before; else at once. */
extern bool late;
/** As on cards of 9.0 and later. */
extern bool bulk;
/** Something was done that the hardware does not forgive: the launch fails. */
extern bool misused;
/** The planted fault that is turned on; 0: none. */
extern u32 fault;
/** The kernel was launched before the ones before it had to be done: a thread that has not waited must not read what they write. */
extern bool early;
void wait();

inline Warp& warp() { return now->block->warps[now->thread / 32]; }
/** Gives this lane's words to the warp; all lanes' words once all are there. */
inline u32 (*exchange(const u32* mine, u32 n))[6] {
  Warp& w = warp();
  const u32 generation = w.generation;
  auto all = w.words[generation & 1];
  std::memcpy(all[now->thread % 32], mine, n * 4);
  if (++w.arrived == 32) {
    w.arrived = 0;
    w.generation++;
  } else {
    now->word = &w.generation;
    now->value = generation;
    wait();
  }
  return all;
}
inline u32 of_lane(u32 v, u32 lane) { return exchange(&v, 1)[lane][0]; }
}  // namespace emulator

/** Asked by kernels that a test put faults into: has it turned on this one? */
constexpr bool planted(u32 n) { return !__builtin_is_constant_evaluated() && emulator::fault == n; }

inline char* shared_memory() { return emulator::now->block->memory; }
inline u32 shared_size() { return emulator::shared_bytes; }
inline u32 thread() { return emulator::now->thread; }
inline u32 thread_anew() { return thread(); }
inline u32 block() { return emulator::now->block->index; }
inline u32 blocks() { return emulator::grid; }
inline void sync() {
  emulator::Block& b = *emulator::now->block;
  const u32 generation = b.generation;
  if (++b.arrived == b.threads) {
    b.arrived = 0;
    b.generation++;
    return;
  }
  emulator::now->word = &b.generation;
  emulator::now->value = generation;
  emulator::wait();
}
/** Barriers of some warps: their number, and how many threads they wait for. */
inline void sync_some(u32 which, u32 threads) {
  emulator::Block& b = *emulator::now->block;
  const u32 generation = b.some_generations[which];
  if (++b.some[which] == threads) {
    b.some[which] = 0;
    b.some_generations[which]++;
    return;
  }
  emulator::now->word = &b.some_generations[which];
  emulator::now->value = generation;
  emulator::wait();
}
template <u32 WHICH> inline void meet(u32 threads) { sync_some(6 + WHICH, threads); }
template <u32 WHICH> inline void tell(u32 threads) {
  emulator::Block& b = *emulator::now->block;
  if (++b.some[6 + WHICH] < threads) return;
  b.some[6 + WHICH] = 0;
  b.some_generations[6 + WHICH]++;
}
inline void sync_four(u32 which) { sync_some(which, 128); }
inline void sync_half(u32 which) { sync_some(4 + which, 256); }
inline void sync_warp() { emulator::of_lane(0, 0); }

inline u32 bits(float x) {
  u32 v;
  std::memcpy(&v, &x, 4);
  return v;
}
inline float from_bits(u32 v) {
  float x;
  std::memcpy(&x, &v, 4);
  return x;
}
inline float divide(float a, float b) { return a / b; }
inline float larger_float(float a, float b) { return std::fmax(a, b); }
inline float larger_or_nan(float a, float b) { return a != a || b != b ? NAN : std::fmax(a, b); }
inline float absolute(float a) { return std::fabs(a); }
inline float root(float a) { return std::sqrt(a); }
inline i32 nearest(float x) { return x != x ? 0 : x >= 2147483648.0f ? 0x7fffffff : x < -2147483648.0f ? -0x7fffffff - 1 : (i32)std::nearbyint(x); }
inline u64 nearest64(float x) { return (u64)std::nearbyint((double)x); }
inline float half_float(u32 h) {
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  const u32 exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 0) return sign * std::ldexp((float)fraction, -24);
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * std::ldexp(1.0f + (float)fraction / 1024.0f, (int)exponent - 15);
}

inline float shuffle_down(float v, u32 by) {
  const u32 lane = thread() % 32, from = (lane & 15) + by < 16 ? lane + by : lane;
  return from_bits(emulator::of_lane(bits(v), from));
}
inline i32 shuffle_xor(i32 v, u32 by) { return (i32)emulator::of_lane((u32)v, (thread() % 32) ^ by); }
inline i32 broadcast16(i32 v) { return (i32)emulator::of_lane((u32)v, thread() % 32 & 16); }
inline u32 warp_max(u32 v) {
  auto all = emulator::exchange(&v, 1);
  u32 most = 0;
  for (u32 i = 0; i < 32; i++) most = all[i][0] > most ? all[i][0] : most;
  return most;
}
inline i32 warp_sum(i32 v) {
  const u32 mine = (u32)v;
  auto all = emulator::exchange(&mine, 1);
  u32 sum = 0;
  for (u32 i = 0; i < 32; i++) sum += all[i][0];
  return (i32)sum;
}

template <class T> inline T load(const T* p) {
  if (emulator::early && !emulator::now->waited) emulator::misused = true;
  return *p;
}
inline void let_next_begin() {}
inline void wait_for_earlier() { emulator::now->waited = true; }
inline Words stream(const void* p) {
  Words v;
  std::memcpy(&v, p, 16);
  return v;
}
inline u64 stream8(const void* p) {
  u64 v;
  std::memcpy(&v, p, 8);
  return v;
}
inline float stream_float(const float* p) { return *p; }
inline void fetch(const void* p) {
  // A line that is asked for has to be there.
  const volatile char* at = (const volatile char*)p;
  (void)*at;
}
inline void copy_ahead(void* to, const void* from) {
  if (emulator::late) emulator::now->copies.push_back({to, from});
  else std::memcpy(to, from, 16);
}
inline void copies_asked() {
  if (emulator::late) emulator::now->groups.push_back(emulator::now->copies.size());
}
inline void copies_there_but(u32 newest) {
  emulator::Fiber& f = *emulator::now;
  if (f.groups.size() <= newest) return;
  const size_t groups = f.groups.size() - newest, n = f.groups[groups - 1];
  for (size_t i = 0; i < n; i++) std::memcpy(f.copies[i].to, f.copies[i].from, 16);
  f.copies.erase(f.copies.begin(), f.copies.begin() + (long)n);
  f.groups.erase(f.groups.begin(), f.groups.begin() + (long)groups);
  for (size_t& mark : f.groups) mark -= n;
}
template <int NEWEST> inline void copies_there() { copies_there_but(NEWEST); }
namespace emulator {
/** What an arrival holds: bytes that have not come, tellers who have not told, their number, how often all was there. */
struct Arrival {
  i32 bytes;
  uint8_t left, tellers;
  uint16_t times;
};
static_assert(sizeof(Arrival) == sizeof(u64), "in place of the hardware's");
inline Arrival& arrival_at(u64* p) { return *(Arrival*)p; }
inline void look_at(Arrival& a) {
  if (a.left > 0 || a.bytes > 0) return;
  a.left = a.tellers;
  a.times++;
}
inline void bring(const Block::Stretch& s) {
  std::memcpy(s.to, s.from, s.bytes);
  Arrival& a = arrival_at(s.arrival);
  a.bytes -= (i32)s.bytes;
  look_at(a);
}
}  // namespace emulator
inline bool bulk_copies() { return emulator::bulk; }
inline void begin_arrival(u64* p, u32 tellers) { emulator::arrival_at(p) = {0, (uint8_t)tellers, (uint8_t)tellers, 0}; }
inline void expect(u64* p, u32 bytes) {
  emulator::Arrival& a = emulator::arrival_at(p);
  // A teller too many, before all was there.
  if (a.left == 0) emulator::misused = true;
  a.bytes += (i32)bytes;
  a.left--;
  emulator::look_at(a);
}
inline void copy_bulk(void* to, const void* from, u32 bytes, u64* arrival) {
  if (((uintptr_t)to | (uintptr_t)from | bytes) & 15) emulator::misused = true;
  const emulator::Block::Stretch s{to, from, bytes, arrival};
  if (emulator::late) emulator::now->block->stretches.push_back(s);
  else emulator::bring(s);
}
inline void await_bulk(u64* p, u32 parity) {
  emulator::Arrival& a = emulator::arrival_at(p);
  while ((a.times & 1) == parity) {
    auto& all = emulator::now->block->stretches;
    for (size_t i = 0; i < all.size();) {
      if (all[i].arrival != p) {
        i++;
        continue;
      }
      const auto s = all[i];
      all.erase(all.begin() + (long)i);
      emulator::bring(s);
    }
    if ((a.times & 1) != parity) return;
    emulator::now->word = (const volatile u32*)p + 1;
    emulator::now->value = *((const volatile u32*)p + 1);
    emulator::wait();
  }
}
inline void fetch_bulk(const void* from, u32 bytes) {
  // All that is asked for has to be there.
  for (u32 at = 0; at < bytes; at += 64) fetch((const char*)from + at);
}
inline void before_bulk() {}
inline void before_bulk_of_all() {}

inline void add_shared(i32* p, i32 v) { *p += v; }
inline void max_shared(u32* p, u32 v) { *p = v > *p ? v : *p; }
inline void add_global64(u64* p, u64 v) { *p += v; }
inline u32 take_shared(u32* p) { return (*p)++; }
inline u32 add_global(u32* p, u32 v) {
  const u32 old = *p;
  *p += v;
  return old;
}
inline void fence() {}
inline void arrive(u32* p) { *p += 1; }
inline void await(u32* p, u32 target) {
  if ((i32)(*p - target) >= 0) return;
  emulator::now->count = p;
  emulator::now->target = target;
  emulator::wait();
}

inline u32 bytes_of(u32 a, u32 b, u32 which) {
  const u64 both = (u64)b << 32 | a;
  u32 v = 0;
  for (u32 k = 0; k < 4; k++) v |= (u32)(both >> (8 * (which >> (4 * k) & 7)) & 255) << (8 * k);
  return v;
}
inline i32 dot4(u32 a, u32 b, i32 sum) {
  for (u32 k = 0; k < 32; k += 8) sum += (i32)(int8_t)(a >> k & 255) * (i32)(int8_t)(b >> k & 255);
  return sum;
}
inline i32 dot4_u8(u32 a, u32 b, i32 sum) {
  for (u32 k = 0; k < 32; k += 8) sum += (i32)(a >> k & 255) * (i32)(int8_t)(b >> k & 255);
  return sum;
}

inline void publish(u64* p, float v, u32 tag) { *p = (u64)tag << 32 | bits(v); }
inline float receive(const u64* p, u32 tag) {
  for (;;) {
    const u64 v = *(const volatile u64*)p;
    if ((u32)(v >> 32) == tag) return from_bits((u32)v);
    emulator::now->word = (const volatile u32*)p + 1;
    emulator::now->value = (u32)(v >> 32);
    emulator::wait();
  }
}
template <u32 N> inline void receive_both(float (&a)[N], const u64* p, u32 apart, float (&b)[N], const u64* q, u32 apart_too, u32 n, u32 tag) {
  for (u32 k = 0; k < n && k < N; k++) {
    a[k] = receive(p + k * apart, tag);
    b[k] = receive(q + k * apart_too, tag);
  }
}

namespace emulator {
/** Sixteen bytes as 16-bit numbers, two at a time multiplied and added by one instruction: most of a prompt's time goes here. */
struct Sixteen {
  __m128i low, high;
  template <class Byte> static Sixteen of(__m128i v) {
    const __m128i low = _mm_unpacklo_epi8(v, v), high = _mm_unpackhi_epi8(v, v);
    if (std::is_signed<Byte>::value) return {_mm_srai_epi16(low, 8), _mm_srai_epi16(high, 8)};
    return {_mm_srli_epi16(low, 8), _mm_srli_epi16(high, 8)};
  }
  __m128i times(const Sixteen& o) const { return _mm_add_epi32(_mm_madd_epi16(low, o.low), _mm_madd_epi16(high, o.high)); }
};
template <class Byte> inline void mma(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  const u32 mine[6] = {a0, a1, a2, a3, b0, b1};
  auto all = exchange(mine, 6);
  const u32 lane = thread() % 32, g = lane / 4, t = lane % 4;
  // The words of four lanes, which are sixteen bytes of a row or column.
  auto four = [&](u32 first, u32 at) {
    return _mm_setr_epi32((i32)all[first][at], (i32)all[first + 1][at], (i32)all[first + 2][at], (i32)all[first + 3][at]);
  };
  for (u32 column = 0; column < 2; column++) {
    const u32 from = (2 * t + column) * 4;
    const Sixteen b[2] = {Sixteen::of<int8_t>(four(from, 4)), Sixteen::of<int8_t>(four(from, 5))};
    for (u32 half = 0; half < 2; half++) {
      const __m128i sums = _mm_add_epi32(Sixteen::of<Byte>(four(g * 4, half)).times(b[0]),
                                         Sixteen::of<Byte>(four(g * 4, half + 2)).times(b[1]));
      i32 parts[4];
      std::memcpy(parts, &sums, 16);
      d[2 * half + column] += parts[0] + parts[1] + parts[2] + parts[3];
    }
  }
}
}  // namespace emulator
inline void mma_u8(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) { emulator::mma<uint8_t>(d, a0, a1, a2, a3, b0, b1); }
inline void mma_s8(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) { emulator::mma<int8_t>(d, a0, a1, a2, a3, b0, b1); }

namespace emulator {
/** Is the card one whose warps multiply in fours? */
extern bool fours;
}  // namespace emulator
inline bool four_warps() { return emulator::fours; }
inline char* tile_place(char* p) { return p; }
inline void copies_for_tiles() {}
inline void mma_begin(u32 (&)[2][4]) {}
inline void mma_kept(u32 (&)[2][4]) {}
inline void mma_asked() { emulator::now->product_groups.push_back(emulator::now->products.size()); }
namespace emulator {
inline void multiply(const Product& p) {
  const u32 t = now->thread % 4;
  Sixteen a[2][2];
  for (u32 low = 0; low < 2; low++) {
    for (u32 half = 0; half < 2; half++) {
      const u32 i = low + 2 * half;
      a[low][half] = Sixteen::of<uint8_t>(_mm_setr_epi32((i32)p.a[0][i], (i32)p.a[1][i], (i32)p.a[2][i], (i32)p.a[3][i]));
    }
  }
  for (u32 n = 0; n < p.eights; n++) {
    for (u32 e = 0; e < 2; e++) {
      const u32 column = 8 * n + 2 * t + e;
      Sixteen b[2];
      for (u32 half = 0; half < 2; half++) {
        __m128i v;
        std::memcpy(&v, p.b + column * 128 + (((2 * p.step + half) ^ (column & 7)) << 4), 16);
        b[half] = Sixteen::of<int8_t>(v);
      }
      for (u32 low = 0; low < 2; low++) {
        const __m128i sums = _mm_add_epi32(a[low][0].times(b[0]), a[low][1].times(b[1]));
        i32 parts[4];
        std::memcpy(parts, &sums, 16);
        p.d[n][2 * low + e] += parts[0] + parts[1] + parts[2] + parts[3];
      }
    }
  }
}
}  // namespace emulator
/** Late, as copies are: who reads results too early has the old ones, and who writes over the codes has other results. */
template <int NEWEST> inline void mma_done() {
  emulator::Fiber& f = *emulator::now;
  sync_warp();
  if (f.product_groups.size() <= NEWEST) return;
  const size_t groups = f.product_groups.size() - NEWEST, n = f.product_groups[groups - 1];
  for (size_t i = 0; i < n; i++) emulator::multiply(f.products[i]);
  f.products.erase(f.products.begin(), f.products.begin() + (long)n);
  f.product_groups.erase(f.product_groups.begin(), f.product_groups.begin() + (long)groups);
  for (size_t& mark : f.product_groups) mark -= n;
}
template <u32 N> inline void mma_four(i32 (&d)[N / 8][4], const u32 (&a)[4], const char* b, u32 step) {
  const u32 mine[6] = {a[0], a[1], a[2], a[3], 0, 0};
  auto all = emulator::exchange(mine, 6);
  emulator::Product p{d, N / 8, {}, b, step};
  for (u32 k = 0; k < 4; k++) std::memcpy(p.a[k], all[emulator::now->thread % 32 / 4 * 4 + k], 16);
  if (emulator::late) emulator::now->products.push_back(p);
  else emulator::multiply(p);
}
