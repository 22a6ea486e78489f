// See grouped_repack.h. A row's codes become bytes first, whatever the source; then 64 rows of them become lines. Both
// steps stay in L1: about one vector operation for two weights (Q2_0), which memory hides.
#include "../include/grouped_repack.h"

#include "../include/layouts.h"

namespace bitnet {

namespace {

typedef uint8_t b16 __attribute__((vector_size(16)));
typedef uint16_t w8 __attribute__((vector_size(16)));
typedef uint32_t d4 __attribute__((vector_size(16)));

inline b16 load(const uint8_t* p) {
  b16 v;
  __builtin_memcpy(&v, p, 16);
  return v;
}
inline void store(uint8_t* p, b16 v) { __builtin_memcpy(p, &v, 16); }
inline b16 splat(int x) { return (uint8_t)x - b16{}; }

// Low and high halves of two vectors, interleaved by elements.
#if defined(__clang__)
inline b16 low8(b16 a, b16 b) { return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23); }
inline b16 high8(b16 a, b16 b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline w8 low16(w8 a, w8 b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline w8 high16(w8 a, w8 b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
inline d4 low32(d4 a, d4 b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
inline d4 high32(d4 a, d4 b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
inline d4 low64(d4 a, d4 b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
inline d4 high64(d4 a, d4 b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }
#else
inline b16 low8(b16 a, b16 b) { return __builtin_shuffle(a, b, (b16){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}); }
inline b16 high8(b16 a, b16 b) {
  return __builtin_shuffle(a, b, (b16){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
}
inline w8 low16(w8 a, w8 b) { return __builtin_shuffle(a, b, (w8){0, 8, 1, 9, 2, 10, 3, 11}); }
inline w8 high16(w8 a, w8 b) { return __builtin_shuffle(a, b, (w8){4, 12, 5, 13, 6, 14, 7, 15}); }
inline d4 low32(d4 a, d4 b) { return __builtin_shuffle(a, b, (d4){0, 4, 1, 5}); }
inline d4 high32(d4 a, d4 b) { return __builtin_shuffle(a, b, (d4){2, 6, 3, 7}); }
inline d4 low64(d4 a, d4 b) { return __builtin_shuffle(a, b, (d4){0, 1, 4, 5}); }
inline d4 high64(d4 a, d4 b) { return __builtin_shuffle(a, b, (d4){2, 3, 6, 7}); }
#endif

/** Bytes n..15, zeros behind them. */
template <int n>
inline b16 drop(b16 v) {
#if defined(__clang__)
  return __builtin_shufflevector(v, b16{}, n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, n + 8, n + 9, n + 10, n + 11,
                                 n + 12, n + 13, n + 14, n + 15);
#else
  return __builtin_shuffle(v, b16{}, (b16){n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, n + 8, n + 9, n + 10, n + 11,
                                           n + 12, n + 13, n + 14, n + 15});
#endif
}

/** Columns that are turned at a time; every block is one or a part of it. */
constexpr int64_t kChunk = 256;

/** Codes of one row of a chunk; kChunk of them and 16 bytes that may be written beyond. */
struct Row {
  uint8_t code[kChunk + 16];
};

/** 16 bytes of four codes, lowest bits first. */
inline void spread(const uint8_t* from, uint8_t* to) {
  const b16 v = load(from), three = splat(3);
  const b16 c0 = v & three, c1 = (v >> 2) & three, c2 = (v >> 4) & three, c3 = v >> 6;
  const w8 a = (w8)low8(c0, c1), b = (w8)low8(c2, c3), c = (w8)high8(c0, c1), d = (w8)high8(c2, c3);
  store(to, (b16)low16(a, b));
  store(to + 16, (b16)high16(a, b));
  store(to + 32, (b16)low16(c, d));
  store(to + 48, (b16)high16(c, d));
}

/** The most significant base-3 digit of bytes: floor(3 v / 256). */
inline b16 top_digit(b16 v) { return (b16)-(v >= splat(86)) + (b16)-(v >= splat(171)); }

/**
 * `digits` digits of 16 bytes of which `width` count: digit n of byte m is element n * width + m. Writes 16 bytes at each
 * step, so what lies behind is written later.
 */
inline void spread_digits(b16 v, int digits, int width, uint8_t* to) {
  for (int n = 0; n < digits; n += 1) {
    store(to + n * width, top_digit(v));
    v = v + v + v;
  }
}

struct Block {
  int64_t columns, bytes, scale_at;
  void (*decode)(const uint8_t* block, uint8_t* to);
};

void decode_q2_64(const uint8_t* b, uint8_t* to) { spread(b + 2, to); }
void decode_q2_128(const uint8_t* b, uint8_t* to) {
  spread(b + 2, to);
  spread(b + 18, to + 64);
}
void decode_ptq1(const uint8_t* b, uint8_t* to) {
  spread_digits(load(b), 5, 16, to);
  // Bytes 12..27, so that nothing behind the block is read.
  const b16 rest = load(b + 12);
  spread_digits(drop<4>(rest), 5, 8, to + 80);
  spread_digits(drop<12>(rest), 4, 2, to + 120);
}
void decode_q1(const uint8_t* b, uint8_t* to) {
  const b16 bits = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  for (int i = 0; i < 8; i += 1) {
    const uint8_t x = b[2 + 2 * i], y = b[3 + 2 * i];
    const b16 v = {x, x, x, x, x, x, x, x, y, y, y, y, y, y, y, y};
    store(to + 16 * i, (b16)((v & bits) != splat(0)) & splat(2));
  }
}
void decode_tq2(const uint8_t* b, uint8_t* to) {
  const b16 three = splat(3);
  for (int half = 0; half < 2; half += 1)
    for (int m = 0; m < 32; m += 16) {
      const b16 v = load(b + 32 * half + m);
      uint8_t* at = to + 128 * half + m;
      store(at, v & three);
      store(at + 32, (v >> 2) & three);
      store(at + 64, (v >> 4) & three);
      store(at + 96, v >> 6);
    }
}
void decode_tq1(const uint8_t* b, uint8_t* to) {
  spread_digits(load(b), 5, 32, to);
  spread_digits(load(b + 16), 5, 32, to + 16);
  spread_digits(load(b + 32), 5, 16, to + 160);
  spread_digits(drop<12>(load(b + 36)), 4, 4, to + 240);
}

constexpr Block kBlocks[] = {
    {64, 18, 0, decode_q2_64},   {128, 34, 0, decode_q2_128}, {128, 28, 26, decode_ptq1},
    {128, 18, 0, decode_q1},     {256, 66, 64, decode_tq2},   {256, 54, 52, decode_tq1},
};
constexpr int32_t kBlockSources = sizeof kBlocks / sizeof kBlocks[0];
static_assert((int32_t)GroupedSource::packed == kBlockSources, "the block layouts come first");

bool finite_f16(uint16_t bits) { return (bits & 0x7c00) != 0x7c00; }

/** n codes of a row without scales from column c on; false when one is none. */
bool plain_codes(GroupedSource source, const uint8_t* row, int64_t c, int64_t n, uint8_t* to) {
  if (source == GroupedSource::packed) {
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) spread(row + (c + i) / 4, to + i);
    for (; i < n; i += 1) to[i] = row[(c + i) / 4] >> ((c + i) % 4 * 2) & 3;
    return true;
  }
  const int off = source == GroupedSource::values ? 1 : 0;
  b16 any = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const b16 v = load(row + c + i) + splat(off);
    any |= v;
    store(to + i, v);
  }
  uint8_t lanes[16], all = 0;
  store(lanes, any);
  for (uint8_t lane : lanes) all |= lane;
  for (; i < n; i += 1) all |= to[i] = (uint8_t)(row[c + i] + off);
  return all < 4;
}

/** 16 columns of 64 rows as 4 lines. */
inline void four_lines(const Row* rows, int64_t c, uint8_t* out) {
  for (int64_t lane = 0; lane < 16; lane += 4) {
    d4 v[4];
    for (int64_t k = 0; k < 4; k += 1) {
      const Row* r = rows + lane + k;
      // Codes below 4: no bit leaves its byte.
      v[k] = (d4)load(r->code + c) | (d4)load(r[16].code + c) << 2 | (d4)load(r[32].code + c) << 4 |
             (d4)load(r[48].code + c) << 6;
    }
    const d4 a = low32(v[0], v[1]), b = low32(v[2], v[3]), e = high32(v[0], v[1]), f = high32(v[2], v[3]);
    store(out + 4 * lane, (b16)low64(a, b));
    store(out + 4 * lane + 64, (b16)high64(a, b));
    store(out + 4 * lane + 128, (b16)low64(e, f));
    store(out + 4 * lane + 192, (b16)high64(e, f));
  }
}

}  // namespace

int64_t grouped_source_group(int32_t source) {
  return source >= 0 && source < kBlockSources ? kBlocks[source].columns : 0;
}

int64_t grouped_source_row_bytes(int32_t source, int64_t C) {
  if (source < 0 || source > (int32_t)GroupedSource::values || C <= 0) return 0;
  if (source < kBlockSources) return C % kBlocks[source].columns ? 0 : C / kBlocks[source].columns * kBlocks[source].bytes;
  return source == (int32_t)GroupedSource::packed ? (C + 3) / 4 : C;
}

bool grouped_repack(int32_t source, const uint8_t* src, int64_t rows, int64_t C, int64_t row_begin, int64_t row_end,
                    uint8_t* panels, uint16_t* scales, const int64_t* source_row) {
  const Block* block = source < kBlockSources ? &kBlocks[source] : nullptr;
  const int64_t row_bytes = grouped_source_row_bytes(source, C), groups = block ? C / block->columns : 0;
  alignas(64) Row chunk[kGroupedRows];
  bool fine = true;
  for (int64_t row = row_begin; row < row_end; row += kGroupedRows) {
    const int64_t p = row / kGroupedRows, there = rows - row < kGroupedRows ? rows - row : kGroupedRows;
    uint8_t* out = panels + p * panel_bytes(C);
    uint16_t* scale = scales + p * groups * kGroupedRows;
    if (block && there < kGroupedRows) __builtin_memset(scale, 0, (size_t)(groups * kGroupedRows * 2));
    for (int64_t c = 0; c < C; c += kChunk) {
      const int64_t n = C - c < kChunk ? C - c : kChunk;
      for (int64_t r = 0; r < kGroupedRows; r += 1) {
        uint8_t* to = chunk[r].code;
        if (r >= there) {
          __builtin_memset(to, 1, (size_t)n);
        } else {
          const uint8_t* from = src + (source_row ? source_row[row + r] : row + r) * row_bytes;
          if (!block) {
            fine &= plain_codes((GroupedSource)source, from, c, n, to);
          } else {
            for (int64_t g = c / block->columns; g * block->columns < c + n; g += 1) {
              const uint8_t* at = from + g * block->bytes;
              uint16_t bits;
              __builtin_memcpy(&bits, at + block->scale_at, 2);
              fine &= finite_f16(bits);
              scale[g * kGroupedRows + r] = bits;
              block->decode(at, to + g * block->columns - c);
            }
          }
        }
        // Columns past the last, and what only fills a vector.
        if (n < kChunk) __builtin_memset(to + n, 1, (size_t)(round_up(n, 16) - n));
      }
      int64_t i = 0;
      for (; i + 16 <= n; i += 16) four_lines(chunk, i, out + (c + i) / 4 * 64);
      if (i < n) {
        uint8_t lines[256];
        four_lines(chunk, i, lines);
        __builtin_memcpy(out + (c + i) / 4 * 64, lines, (size_t)((n - i + 3) / 4 * 64));
      }
    }
  }
  return fine;
}

namespace {

template <class Bits>
bool repack_scales(const uint8_t* src, int64_t rows, int64_t groups, int64_t row_begin, int64_t row_end, uint8_t* scales,
                   const int64_t* source_row) {
  constexpr uint32_t kTop = sizeof(Bits) == 2 ? 0x7c00 : 0x7f800000;
  bool fine = true;
  for (int64_t row = row_begin; row < row_end; row += kGroupedRows) {
    uint8_t* out = scales + row * groups * (int64_t)sizeof(Bits);
    for (int64_t r = 0; r < kGroupedRows; r += 1) {
      const bool there = row + r < rows;
      const uint8_t* from = there ? src + (source_row ? source_row[row + r] : row + r) * groups * (int64_t)sizeof(Bits) : nullptr;
      for (int64_t g = 0; g < groups; g += 1) {
        Bits bits = 0;
        if (there) __builtin_memcpy(&bits, from + g * (int64_t)sizeof(Bits), sizeof(Bits));
        fine &= (bits & kTop) != kTop;
        __builtin_memcpy(out + (g * kGroupedRows + r) * (int64_t)sizeof(Bits), &bits, sizeof(Bits));
      }
    }
  }
  return fine;
}

}  // namespace

bool grouped_repack_scales(const uint8_t* src, int64_t bytes, int64_t rows, int64_t groups, int64_t row_begin,
                           int64_t row_end, uint8_t* scales, const int64_t* source_row) {
  return bytes == 2 ? repack_scales<uint16_t>(src, rows, groups, row_begin, row_end, scales, source_row)
                    : repack_scales<uint32_t>(src, rows, groups, row_begin, row_end, scales, source_row);
}

namespace {

constexpr int64_t kHalfLines = 16;

/** Whether 64 columns of row r hold only code 1; `lines` is the group's first line. */
bool only_zeros(const uint8_t* lines, int64_t r) {
  const int64_t shift = r / 16 * 2;
  for (int64_t j = 0; j < kHalfLines; j += 1) {
    uint32_t codes;
    __builtin_memcpy(&codes, lines + 64 * j + r % 16 * 4, 4);
    if ((codes >> shift & 0x03030303u) != 0x01010101u) return false;
  }
  return true;
}

}  // namespace

bool grouped_pairs(const uint8_t* panels, const uint16_t* scales, int64_t C, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; p += 1)
    for (int64_t g = 0; g < C / 64; g += 2) {
      const uint16_t* s = scales + (p * (C / 64) + g) * kGroupedRows;
      const uint8_t* first = panels + p * panel_bytes(C) + g * kHalfLines * 64;
      for (int64_t r = 0; r < kGroupedRows; r += 1)
        if (s[r] != s[kGroupedRows + r] && !only_zeros(first, r) && !only_zeros(first + kHalfLines * 64, r)) return false;
    }
  return true;
}

void grouped_join_pairs(const uint8_t* panels, const uint16_t* scales, int64_t C, int64_t begin, int64_t end, uint16_t* joined) {
  for (int64_t p = begin; p < end; p += 1)
    for (int64_t g = 0; g < C / 64; g += 2) {
      const uint16_t* s = scales + (p * (C / 64) + g) * kGroupedRows;
      uint16_t* to = joined + (p * (C / 64) + g) / 2 * kGroupedRows;
      const uint8_t* first = panels + p * panel_bytes(C) + g * kHalfLines * 64;
      __builtin_memcpy(to, s, kGroupedRows * 2);
      for (int64_t r = 0; r < kGroupedRows; r += 1)
        if (s[r] != s[kGroupedRows + r] && only_zeros(first, r)) to[r] = s[kGroupedRows + r];
    }
}

}  // namespace bitnet
