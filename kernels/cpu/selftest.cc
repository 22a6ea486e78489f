// See selftest.h.
#include "../include/selftest.h"

#include <stdio.h>
#include <string.h>

#include <memory>
#include <vector>

#include "../include/engine.h"

namespace bitnet {

extern const Kernels kScalarKernels;

namespace {

struct Random {
  uint64_t state;
  uint32_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
  }
  int below(int n) { return (int)(next() % (uint32_t)n); }
  /** Roughly normal, now and then large or tiny. */
  float value() {
    float v = 0;
    for (int i = 0; i < 4; i += 1) v += (float)(below(20001) - 10000) * 1e-4f;
    const int kind = below(64);
    return kind == 0 ? v * 1000.0f : kind == 1 ? v * 1e-12f : kind == 2 ? 0.0f : v;
  }
};

char message[256];

const char* differs(const Kernels& table, const char* what, int64_t a, int64_t b, int64_t c) {
  snprintf(message, sizeof message, "%s: %s differs from scalar (%lld, %lld, %lld)", table.isa, what, (long long)a,
           (long long)b, (long long)c);
  return message;
}

struct Aligned {
  void* p;
  uint64_t n;
  explicit Aligned(uint64_t bytes) : p(host_alloc(bytes ? bytes : 64)), n(bytes ? bytes : 64) {}
  ~Aligned() { host_free(p, n); }
  Aligned(const Aligned&) = delete;
};

std::vector<float> floats(Random& r, int64_t n) {
  std::vector<float> v((size_t)n);
  for (auto& x : v) x = r.value();
  return v;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || !memcmp(a.data(), b.data(), a.size() * 4));
}

/** Codes of T rows as the engine keeps them; also compares quantize. */
bool make_codes(const Kernels& k, Random& r, int64_t T, int64_t C, bool largest, std::vector<int8_t>& codes,
                std::vector<float>& scale) {
  const int64_t stride = code_stride(C);
  codes.assign((size_t)(T * stride), 0);
  scale.assign((size_t)T, 0);
  std::vector<int8_t> other((size_t)stride);
  for (int64_t t = 0; t < T; t += 1) {
    auto x = floats(r, C);
    float s = 0;
    // Of one sign and size all along, or here and there.
    const bool all = r.below(2), negative = r.below(2);
    for (int64_t from = 0; largest && from < C; from += 64) {
      const int kind = all ? 0 : r.below(4);
      for (int64_t c = from; c < C && c < from + 64; c += 1)
        x[(size_t)c] = kind == 0 ? (negative ? -1.0f : 1.0f) : kind == 1 ? 0.0f : (float)(r.below(255) - 127) / 127;
    }
    if (!kScalarKernels.quantize(x.data(), C, codes.data() + t * stride, &scale[(size_t)t])) return false;
    if (!k.quantize(x.data(), C, other.data(), &s) || s != scale[(size_t)t]) return false;
    if (memcmp(other.data(), codes.data() + t * stride, (size_t)code_sum_at(C) + 4)) return false;
    x[(size_t)r.below((int)C)] = r.below(2) ? __builtin_nanf("") : -__builtin_inff();
    if (k.quantize(x.data(), C, other.data(), &s)) return false;
  }
  return true;
}

/** largest: with sums as large as they get. */
const char* check_matmul(const Kernels& k, Random& r, int64_t R, int64_t C, int64_t T, bool largest = false) {
  std::vector<int8_t> codes;
  std::vector<float> scale;
  if (!make_codes(k, r, T, C, largest, codes, scale)) return differs(k, "quantize", T, C, 0);
  const int64_t Q = (R + 3) / 4;
  std::vector<uint8_t> w((size_t)(Q * C));
  for (auto& b : w) b = (uint8_t)(r.below(3) | r.below(3) << 2 | r.below(3) << 4 | r.below(3) << 6);
  for (int64_t q = 0; largest && q + 1 < Q; q += 2) memset(&w[(size_t)(q * C)], q % 4 ? 0x00 : 0xaa, (size_t)C);
  const auto tail_of = [&](const std::vector<uint8_t>& bytes, int64_t rows, int64_t* first) {
    *first = first_tail_row(rows, C);
    std::vector<uint8_t> tail(bytes.begin() + *first * C, bytes.end());
    tail.resize(tail.size() + 64);
    return tail;
  };
  int64_t first = 0;
  const auto tail = tail_of(w, Q, &first);
  std::vector<float> factor((size_t)T);
  for (int64_t t = 0; t < T; t += 1) factor[(size_t)t] = 0.37f / scale[(size_t)t];
  std::vector<float> expected((size_t)(T * R), -1), got((size_t)(T * R), -1);
  Aligned scratch((uint64_t)k.ternary_scratch(C));
  const int64_t middle = Q / 2 / 4 * 4;
  for (int64_t t = 0; t < T; t += k.token_block) {
    const int64_t n = T - t < k.token_block ? T - t : k.token_block;
    TernaryArgs args{w.data(), tail.data(), first, C, R, Q, 0, Q, codes.data() + t * code_stride(C), factor.data() + t, n,
                     expected.data() + t * R, (uint8_t*)scratch.p, 2048};
    kScalarKernels.ternary(args);
    args.out = got.data() + t * R;
    args.end = middle;
    k.ternary(args);
    args.begin = middle;
    args.end = Q;
    k.ternary(args);
  }
  if (!same(expected, got)) return differs(k, "ternary product", R, C, T);

  std::vector<uint8_t> w8((size_t)(R * C));
  for (auto& b : w8) b = (uint8_t)r.next();
  for (int64_t row = 0; largest && row + 1 < R; row += 2) memset(&w8[(size_t)(row * C)], row % 4 ? 0x80 : 0x7f, (size_t)C);
  const auto tail8 = tail_of(w8, R, &first);
  const auto row_scale = floats(r, R);
  Int8Args args8{w8.data(), tail8.data(), first, row_scale.data(), C, R, 0, R, codes.data(), scale.data(), T, expected.data(), 2048};
  kScalarKernels.int8(args8);
  args8.out = got.data();
  k.int8(args8);
  if (!same(expected, got)) return differs(k, "int8 product", R, C, T);
  if (largest) return nullptr;

  const auto x = floats(r, T * C);
  for (int dtype = 0; dtype < 3; dtype += 1) {
    const auto table = floats(r, R * C);
    std::vector<uint8_t> bytes((size_t)(R * C * 4));
    if (dtype == 0) {
      memcpy(bytes.data(), table.data(), bytes.size());
    } else {
      for (int64_t i = 0; i < R * C; i += 1) {
        // f16 of exponents 0..30: subnormals, no infinities.
        const uint16_t bits = dtype == 1 ? (uint16_t)(r.below(0x7c00) | r.below(2) << 15) : (uint16_t)0;
        memcpy(&bytes[(size_t)(2 * i)], dtype == 1 ? (const char*)&bits : (const char*)&table[(size_t)i] + 2, 2);
      }
    }
    DenseArgs dense{bytes.data(), (Dense)dtype, C, R, 0, R, x.data(), T, expected.data(), 2048};
    kScalarKernels.dense(dense);
    dense.out = got.data();
    k.dense(dense);
    if (!same(expected, got)) return differs(k, "dense product", R, C, dtype);
    std::vector<float> a((size_t)C), b((size_t)C);
    kScalarKernels.embed(bytes.data(), (Dense)dtype, C, a.data());
    k.embed(bytes.data(), (Dense)dtype, C, b.data());
    if (!same(a, b)) return differs(k, "embed", C, dtype, 0);
  }
  return nullptr;
}

/** A scale of any kind, as its bits: ordinary, 0 or -0, subnormal, any finite number. */
uint32_t scale_bits(Random& r, bool f16) {
  const uint32_t sign = (uint32_t)r.below(2), kind = (uint32_t)r.below(8);
  if (f16) {
    const int size = kind == 0 ? 0 : kind == 1 ? r.below(0x400) : kind == 2 ? r.below(0x7c00) : 0x2000 + r.below(0x1800);
    return (uint32_t)size | sign << 15;
  }
  const uint32_t size = kind == 0 ? 0 : kind == 1 ? r.next() & 0x7fffff : (uint32_t)(96 + r.below(40)) << 23 | (r.next() & 0x7fffff);
  return size | sign << 31;
}

/** A panel64 matrix of random codes, all four of them, with the rows past R and columns past C as layouts.h wants. */
struct GroupedMatrix {
  int64_t R, C, G;
  bool f16;
  Aligned codes, scales;

  GroupedMatrix(Random& r, int64_t rows, int64_t columns, int64_t group, bool half)
      : R(rows),
        C(columns),
        G(group),
        f16(half),
        codes((uint64_t)(panels_of(rows) * panel_bytes(columns))),
        scales((uint64_t)(panels_of(rows) * (columns / group) * 64 * (half ? 2 : 4))) {
    const int kind = r.below(4);  // one matrix in four is of one code
    for (int64_t p = 0; p < panels_of(R); p += 1) {
      for (int64_t c = 0; c < round_up(C, 4); c += 1)
        for (int64_t row = 0; row < 64; row += 1) {
          const int code = p * 64 + row >= R || c >= C ? 1 : kind == 0 ? 3 : r.below(4);
          ((uint8_t*)codes.p)[p * panel_bytes(C) + c / 4 * 64 + row % 16 * 4 + c % 4] |= (uint8_t)(code << (row / 16 * 2));
        }
      for (int64_t i = 0; i < C / G * 64; i += 1) {
        if (p * 64 + i % 64 >= R) continue;
        const uint32_t scale = scale_bits(r, f16);
        const int64_t at = p * (C / G) * 64 + i, size = f16 ? 2 : 4;
        memcpy((uint8_t*)scales.p + at * size, &scale, (size_t)size);
      }
    }
  }
};

const char* check_grouped(const Kernels& k, Random& r, int64_t R, int64_t C, int64_t G, int64_t T) {
  const GroupedMatrix w(r, R, C, G, r.below(3) != 0);
  const int64_t stride = planes_stride(C, G), used = planes_sum_at(C) + 4 * (C / G);
  Aligned planes((uint64_t)(T * stride)), other((uint64_t)stride);
  std::vector<float> scale((size_t)T);
  for (int64_t t = 0; t < T; t += 1) {
    auto x = floats(r, C);
    const int kind = r.below(8);
    // Rows whose q are all at one end, of zeros, too small for a finite 32639 / m, tiny.
    for (auto& v : x) v = kind == 0 ? 5.0f : kind == 1 ? -5.0f : kind == 2 ? 0.0f : kind == 3 ? v * 1e-36f : kind == 4 ? v * 1e-31f : v;
    uint8_t* row = (uint8_t*)planes.p + t * stride;
    float s = 0;
    memset(other.p, 0x55, (size_t)stride);
    memset(row, 0xaa, (size_t)stride);
    if (!kScalarKernels.quantize16(x.data(), C, G, row, &scale[(size_t)t])) return differs(k, "quantize16 refuses", C, G, 0);
    if (!k.quantize16(x.data(), C, G, (uint8_t*)other.p, &s)) return differs(k, "quantize16 refuses", C, G, 1);
    if (memcmp(&s, &scale[(size_t)t], 4) || memcmp(row, other.p, (size_t)used)) return differs(k, "quantize16", C, G, kind);
    x[(size_t)r.below((int)C)] = r.below(2) ? __builtin_nanf("") : -__builtin_inff();
    if (k.quantize16(x.data(), C, G, (uint8_t*)other.p, &s)) return differs(k, "quantize16 of no number", C, G, 0);
  }
  std::vector<float> expected((size_t)(T * R), -1), got((size_t)(T * R), -1);
  GroupedArgs args{(const uint8_t*)w.codes.p, (const uint8_t*)w.scales.p, w.f16, C, R, G, 0, panels_of(R),
                   (const uint8_t*)planes.p, scale.data(), T, expected.data(), nullptr, 2048};
  Aligned reference((uint64_t)kScalarKernels.grouped_scratch(C, G)), scratch((uint64_t)k.grouped_scratch(C, G));
  args.scratch = (uint8_t*)reference.p;
  kScalarKernels.grouped(args);
  args.scratch = (uint8_t*)scratch.p;
  args.out = got.data();
  const int64_t middle = panels_of(R) / 2;
  args.begin = middle;
  k.grouped(args);
  args.begin = 0;
  args.end = middle;
  k.grouped(args);
  if (!same(expected, got)) return differs(k, "grouped product", R * 1000000 + C, G, T);
  std::vector<float> a((size_t)C), b((size_t)C);
  for (int64_t row : {(int64_t)0, R / 2, R - 1}) {
    kScalarKernels.embed_grouped(args.w, args.scales, w.f16, C, G, row, a.data());
    k.embed_grouped(args.w, args.scales, w.f16, C, G, row, b.data());
    if (!same(a, b)) return differs(k, "embed_grouped", C, G, row);
  }
  return nullptr;
}

const char* check_all_grouped(const Kernels& k, Random& r) {
  for (int64_t G : {32, 64, 128, 256})
    for (int64_t T : {1, 2, 3, 4, 5, 7})
      if (const char* text = check_grouped(k, r, 1 + r.below(200), G * (1 + r.below(5)), G, T)) return text;
  // Whole rows of any width, groups that are not a multiple of a vector.
  for (int64_t C : {1, 2, 3, 5, 37, 64, 100, 191, 300, 1030})
    for (int64_t T : {1, 2, 6})
      if (const char* text = check_grouped(k, r, 1 + r.below(130), C, C, T)) return text;
  for (int64_t G : {4, 12, 20, 132, 260})
    if (const char* text = check_grouped(k, r, 1 + r.below(130), G * (1 + r.below(4)), G, 1 + r.below(5))) return text;
  const int64_t T = 8 + r.below(63);
  if (const char* text = check_grouped(k, r, 70, 384, 128, T)) return text;
  if (const char* text = check_grouped(k, r, 129, 192, 64, 70)) return text;
  if (const char* text = check_grouped(k, r, 5, 640, 320, 33)) return text;
  // Groups longer than what any set decodes at once.
  if (const char* text = check_grouped(k, r, 66, 1344, 448, 37)) return text;
  if (const char* text = check_grouped(k, r, 3, 2048, 1024, 21)) return text;
  // More tokens than any set keeps sums of at once.
  if (const char* text = check_grouped(k, r, 66, 128, 32, 260)) return text;
  if (const char* text = check_grouped(k, r, 65, 14336, 14336, 1)) return text;
  return check_grouped(k, r, 3, 14336, 14336, 4);
}

const char* check_rows(const Kernels& k, Random& r, int64_t n) {
  const auto x = floats(r, n), y = floats(r, n);
  std::vector<float> a((size_t)n), b((size_t)n);
  kScalarKernels.rms_norm(x.data(), y.data(), 1e-5f, n, a.data());
  k.rms_norm(x.data(), y.data(), 1e-5f, n, b.data());
  if (!same(a, b)) return differs(k, "rms_norm", n, 0, 0);
  kScalarKernels.relu2(x.data(), y.data(), n, a.data());
  k.relu2(x.data(), y.data(), n, b.data());
  if (!same(a, b)) return differs(k, "relu2", n, 0, 0);
  kScalarKernels.silu(x.data(), y.data(), n, a.data());
  k.silu(x.data(), y.data(), n, b.data());
  if (!same(a, b)) return differs(k, "silu", n, 0, 0);
  a = b = x;
  kScalarKernels.add(a.data(), y.data(), n);
  k.add(b.data(), y.data(), n);
  if (!same(a, b)) return differs(k, "add", n, 0, 0);
  int32_t c[3], d[3];
  kScalarKernels.count_trits(x.data(), n, c);
  k.count_trits(x.data(), n, d);
  if (memcmp(c, d, sizeof c)) return differs(k, "count_trits", n, 0, 0);
  // Equals among them; some weigh nothing.
  for (float& v : a) v = (float)(int)(v * 8) * (r.below(4) ? 1.0f : 40.0f);
  const int32_t top = (int32_t)(n < 64 ? n : 64);
  int32_t ids[64], others[64];
  float values[64], other_values[64];
  const double mass = kScalarKernels.top_logits(a.data(), n, top, ids, values);
  const double other = k.top_logits(a.data(), n, top, others, other_values);
  if (memcmp(&mass, &other, sizeof mass) || memcmp(ids, others, (size_t)top * 4) || memcmp(values, other_values, (size_t)top * 4))
    return differs(k, "top_logits", n, 0, 0);
  a[(size_t)(n - 1)] = __builtin_nanf("");
  const double none = k.top_logits(a.data(), n, 1, ids, values);
  if (none == none) return differs(k, "top_logits of NaN", n, 0, 0);
  return nullptr;
}

const char* check_attention(const Kernels& k, Random& r, int64_t D, int queries, int64_t keys, bool windows) {
  const int64_t blocks = (keys + kBlock - 1) / kBlock, floats_each = k_head_floats(D) + v_head_floats(D);
  Aligned first((uint64_t)(blocks * floats_each * 4)), second((uint64_t)(blocks * floats_each * 4));
  std::vector<float*> expected_blocks, got_blocks;
  for (int64_t i = 0; i < blocks; i += 1) {
    expected_blocks.push_back((float*)first.p + i * floats_each);
    got_blocks.push_back((float*)second.p + i * floats_each);
  }
  for (int64_t j = 0; j < keys; j += 1) {
    const auto key = floats(r, D), value = floats(r, D);
    float* to = expected_blocks[(size_t)(j / kBlock)];
    kScalarKernels.kv_append(key.data(), value.data(), D, j % kBlock, to, to + k_head_floats(D));
    to = got_blocks[(size_t)(j / kBlock)];
    k.kv_append(key.data(), value.data(), D, j % kBlock, to, to + k_head_floats(D));
  }
  if (memcmp(first.p, second.p, (size_t)(blocks * floats_each * 4))) return differs(k, "kv_append", D, keys, 0);
  auto q = floats(r, queries * D);
  if (D >= 2) {
    const int64_t rotary = r.below(2) ? D / 2 * 2 : 2 * (1 + r.below((int)(D / 2)));
    const auto cos = floats(r, rotary / 2), sin = floats(r, rotary / 2);
    auto other = q;
    kScalarKernels.rope(q.data(), cos.data(), sin.data(), queries, D, rotary);
    k.rope(other.data(), cos.data(), sin.data(), queries, D, rotary);
    if (!same(q, other)) return differs(k, "rope", D, queries, 0);
  }
  std::vector<float> expected((size_t)(queries * D)), got((size_t)(queries * D));
  const int64_t stride = round_up(keys, 32) + 16;
  std::vector<float> scores((size_t)(kQueries * stride));
  AttentionArgs args{};
  args.queries = queries;
  args.D = D;
  args.scale = 0.1f;
  args.scores = scores.data();
  args.score_stride = stride;
  args.v_at = k_head_floats(D);
  for (int g = 0; g < queries; g += 1) {
    args.q[g] = q.data() + g * D;
    args.end[g] = g == 0 ? keys : 1 + r.below((int)keys);
    args.first[g] = windows ? r.below((int)args.end[g]) : 0;
    args.out[g] = expected.data() + g * D;
  }
  args.blocks = expected_blocks.data();
  kScalarKernels.attention.whole(args);
  for (int g = 0; g < queries; g += 1) args.out[g] = got.data() + g * D;
  args.blocks = got_blocks.data();
  k.attention.whole(args);
  if (!same(expected, got)) return differs(k, "attention", D, queries, keys);
  // In parts, of blocks in any order.
  for (int g = 0; g < queries; g += 1) {
    args.first[g] = args.first[0];
    args.end[g] = args.end[0];
    args.out[g] = expected.data() + g * D;
  }
  kScalarKernels.attention.whole(args);
  const int64_t lowest = args.first[0] / kBlock, n = (args.end[0] + kBlock - 1) / kBlock - lowest;
  std::vector<int64_t> cuts{lowest, lowest + n};
  for (int64_t b = lowest + 1; b < lowest + n; b += 1)
    if (r.below(2)) cuts.insert(cuts.end() - 1, b);
  std::vector<float> largest((size_t)queries, -__builtin_inff()), one((size_t)queries), totals((size_t)(n * queries)), sums((size_t)(n * queries * D));
  for (size_t i = cuts.size() - 1; i-- > 0;) {
    k.attention.scores(args, cuts[i] * kBlock, cuts[i + 1] * kBlock, one.data());
    for (int g = 0; g < queries; g += 1) largest[(size_t)g] = one[(size_t)g] > largest[(size_t)g] ? one[(size_t)g] : largest[(size_t)g];
  }
  for (size_t i = cuts.size() - 1; i-- > 0;)
    k.attention.values(args, cuts[i] * kBlock, cuts[i + 1] * kBlock, largest.data(), totals.data(), sums.data());
  for (int g = 0; g < queries; g += 1) args.out[g] = got.data() + g * D;
  k.attention.join(args, totals.data(), sums.data());
  return same(expected, got) ? nullptr : differs(k, "attention in parts", D, queries, keys);
}

const char* check_hadamard(const Kernels& k, Random& r, int64_t n, int64_t block) {
  const auto x = floats(r, n);
  std::vector<float> signs((size_t)n), a((size_t)n), b((size_t)n);
  for (auto& s : signs) s = r.below(2) ? 1.0f : -1.0f;
  for (int way = 0; way < 3; way += 1) {
    const float* before = way == 0 ? signs.data() : nullptr;
    const float* after = way == 1 ? signs.data() : nullptr;
    kScalarKernels.hybrid.hadamard(x.data(), before, after, n, block, a.data());
    k.hybrid.hadamard(x.data(), before, after, n, block, b.data());
    if (!same(a, b)) return differs(k, "hadamard", n, block, way);
    b = x;
    k.hybrid.hadamard(b.data(), before, after, n, block, b.data());
    if (!same(a, b)) return differs(k, "hadamard in place", n, block, way);
  }
  // The definition, element by element and in double.
  for (int i = 0; i < 3; i += 1) {
    const int64_t at = r.below((int)n), base = at / block * block;
    double sum = 0, size = 0;
    for (int64_t j = 0; j < block; j += 1) {
      const double v = x[(size_t)(base + j)];
      sum += __builtin_parityll((unsigned long long)((at - base) & j)) ? -v : v;
      size += v < 0 ? -v : v;
    }
    const double wanted = sum / __builtin_sqrt((double)block), got = a[(size_t)at];
    const double error = wanted > got ? wanted - got : got - wanted;
    if (error > 1e-6 * size) return differs(k, "hadamard's definition", n, block, at);
  }
  return nullptr;
}

const char* check_conv(const Kernels& k, Random& r, int64_t C, int64_t taps, int64_t rows) {
  const auto x = floats(r, rows * C), weight = floats(r, taps * C), start = floats(r, (taps - 1) * C);
  std::vector<float> a((size_t)(rows * C)), b((size_t)(rows * C));
  auto sa = start, sb = start;
  sa.resize(sa.size() + 1);
  sb.resize(sb.size() + 1);
  kScalarKernels.hybrid.conv(ConvArgs{x.data(), weight.data(), sa.data(), a.data(), rows, C, C, taps});
  // In two pieces of channels and two of rows.
  const int64_t half = rows / 2, c = C / 2;
  for (int64_t from = 0; from < C; from += c < 1 ? C : from ? C - c : c) {
    const int64_t n = from || c < 1 ? C - from : c;
    k.hybrid.conv(ConvArgs{x.data() + from, weight.data() + from, sb.data() + from, b.data() + from, half, C, n, taps});
    k.hybrid.conv(ConvArgs{x.data() + half * C + from, weight.data() + from, sb.data() + from, b.data() + half * C + from, rows - half, C, n, taps});
  }
  return same(a, b) && same(sa, sb) ? nullptr : differs(k, "convolution", C, taps, rows);
}

const char* check_delta(const Kernels& k, Random& r, int64_t D, int64_t rows) {
  const int64_t stride = 3 * D + r.below(5);
  auto x = floats(r, rows * stride);
  for (auto& v : x) v *= 0.1f;
  const auto gates = floats(r, 2 * rows);
  std::vector<float> a((size_t)(rows * D)), b((size_t)(rows * D));
  Aligned first((uint64_t)delta_floats(D) * 4), second((uint64_t)delta_floats(D) * 4);
  DeltaArgs args{};
  args.q = x.data();
  args.k = args.q + D;
  args.v = args.k + D;
  args.stride = stride;
  args.beta = gates.data();
  args.alpha = args.beta + 1;
  args.gate_stride = 2;
  args.decay = -0.3f;
  args.bias = 0.1f;
  args.rows = rows;
  args.D = D;
  args.columns = D;
  args.state = (float*)first.p;
  args.out = a.data();
  args.out_stride = D;
  kScalarKernels.hybrid.delta(args);
  // Some rows after the others, some dimensions after the others.
  const int64_t half = rows / 2, cut = D / 32 * 16;
  const int64_t row_ends[] = {0, half, rows}, column_ends[] = {0, cut, D};
  for (int c = 0; c < 2; c += 1)
    for (int t = 0; t < 2; t += 1) {
      const int64_t row = row_ends[t], from = column_ends[c];
      DeltaArgs part = args;
      part.rows = row_ends[t + 1] - row;
      part.columns = column_ends[c + 1] - from;
      part.q += row * stride;
      part.k += row * stride;
      part.v += row * stride + from;
      part.beta += 2 * row;
      part.alpha += 2 * row;
      part.state = (float*)second.p + from * D;
      part.out = b.data() + row * D + from;
      k.hybrid.delta(part);
    }
  if (!same(a, b)) return differs(k, "delta rule", D, rows, 0);
  // What no value dimension has does not count.
  for (int64_t d = 0; d < D; d += 1)
    for (int64_t i = 0; i < D; i += 1) {
      const int64_t at = d / 16 * D * 16 + i * 16 + d % 16;
      if (memcmp((float*)first.p + at, (float*)second.p + at, 4)) return differs(k, "state of the delta rule", D, rows, d);
    }
  return nullptr;
}

const char* check_route(const Kernels& k, Random& r, int64_t E, int64_t K) {
  auto x = floats(r, E);
  // Some equal ones.
  for (int i = 0; i < 4; i += 1) x[(size_t)r.below((int)E)] = x[(size_t)r.below((int)E)];
  std::vector<float> e((size_t)E), a((size_t)K), b((size_t)K);
  std::vector<int32_t> c((size_t)K), d((size_t)K);
  if (!kScalarKernels.hybrid.route(x.data(), E, K, 0.25f, e.data(), c.data(), a.data())) return differs(k, "route refuses", E, K, 0);
  if (!k.hybrid.route(x.data(), E, K, 0.25f, e.data(), d.data(), b.data()) || c != d || !same(a, b)) return differs(k, "route", E, K, 0);
  for (int64_t i = 0; i < K; i += 1)
    for (int64_t j = 0; j < E; j += 1) {
      const bool chosen = [&] {
        for (int64_t l = 0; l <= i; l += 1)
          if (d[(size_t)l] == j) return true;
        return false;
      }();
      const float mine = x[(size_t)d[(size_t)i]], other = x[(size_t)j];
      if (!chosen && (other > mine || (other == mine && j < d[(size_t)i]))) return differs(k, "order of experts", E, K, i);
    }
  x[(size_t)r.below((int)E)] = r.below(2) ? __builtin_nanf("") : __builtin_inff();
  return k.hybrid.route(x.data(), E, K, 0.25f, e.data(), d.data(), b.data()) ? differs(k, "route of no number", E, K, 0) : nullptr;
}

const char* check_gates(const Kernels& k, Random& r, int64_t n) {
  auto x = floats(r, n), y = floats(r, n);
  x[(size_t)r.below((int)n)] = r.below(2) ? __builtin_inff() : -__builtin_inff();
  std::vector<float> a((size_t)n), b((size_t)n);
  kScalarKernels.hybrid.sigmoid(x.data(), y.data(), n, a.data());
  k.hybrid.sigmoid(x.data(), y.data(), n, b.data());
  if (!same(a, b)) return differs(k, "sigmoid", n, 0, 0);
  kScalarKernels.hybrid.clamped_silu(x.data(), y.data(), 0.75f, n, a.data());
  k.hybrid.clamped_silu(x.data(), y.data(), 0.75f, n, b.data());
  if (!same(a, b)) return differs(k, "clamped silu", n, 0, 0);
  x = floats(r, n);
  a = b = x;
  kScalarKernels.hybrid.l2_norm(a.data(), n, 1e-6f, 0.125f);
  k.hybrid.l2_norm(b.data(), n, 1e-6f, 0.125f);
  if (!same(a, b)) return differs(k, "l2_norm", n, 0, 0);
  const auto experts = floats(r, 3 * n), weights = floats(r, 3);
  a = b = x;
  kScalarKernels.hybrid.add_experts(a.data(), experts.data(), weights.data(), 3, n);
  k.hybrid.add_experts(b.data(), experts.data(), weights.data(), 3, n);
  return same(a, b) ? nullptr : differs(k, "add_experts", n, 0, 0);
}

const char* check_all_hybrid(const Kernels& k, Random& r) {
  for (int64_t n : {1, 5, 16, 33, 100, 257})
    if (const char* text = check_gates(k, r, n)) return text;
  for (int64_t block = 2; block <= 2048; block *= 2)
    for (int64_t blocks : {1, 3})
      if (const char* text = check_hadamard(k, r, block * blocks, block)) return text;
  for (int64_t C : {1, 16, 21, 70})
    for (int64_t taps : {1, 2, 4, 7})
      for (int64_t rows : {1, 2, 3, 9})
        if (const char* text = check_conv(k, r, C, taps, rows)) return text;
  for (int64_t D : {1, 3, 8, 16, 20, 33, 64, 100, 128})
    for (int64_t rows : {1, 2, 5, 37})
      if (const char* text = check_delta(k, r, D, rows)) return text;
  for (int64_t E : {1, 2, 8, 31, 256})
    for (int64_t K : {1, 2, 8})
      if (K <= E)
        if (const char* text = check_route(k, r, E, K)) return text;
  return nullptr;
}

}  // namespace

const char* selftest(const Kernels& table, uint32_t seed) {
  Random r{seed * 2654435761u + 1};
  const int64_t sizes[] = {1, 2, 7, 15, 16, 17, 31, 33, 48, 64, 100, 172, 256, 300};
  for (int64_t C : sizes) {
    if (const char* text = check_rows(table, r, C)) return text;
    const int64_t R = 1 + r.below(70);
    for (int64_t T : {1, 2, 3, 4, 5, 8, 17})
      if (const char* text = check_matmul(table, r, R, C, T)) return text;
  }
  for (int64_t T = 1; T <= 12; T += 1)
    for (int64_t R : {23, 131})
      if (const char* text = check_matmul(table, r, R, 1090, T, true)) return text;
  if (const char* text = check_matmul(table, r, 37, 2050, 33)) return text;
  if (const char* text = check_matmul(table, r, 64, 1030, 111)) return text;
  if (const char* text = check_matmul(table, r, 263, 190, 80)) return text;
  if (const char* text = check_all_grouped(table, r)) return text;
  for (int64_t D : {1, 3, 8, 12, 17, 48, 64, 100, 128})
    for (int queries : {1, 2, 3, 4, 7, kQueries})
      for (bool windows : {false, true})
        if (const char* text = check_attention(table, r, D, queries, 1 + r.below(300), windows)) return text;
  return check_all_hybrid(table, r);
}

}  // namespace bitnet
