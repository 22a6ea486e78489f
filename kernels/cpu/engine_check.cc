// Runs the engine under sanitizers (scripts/kernel-sanitize). Three parts:
//   random valid programs on 1 to 4 threads and every instruction set: same logits, sequences forked and truncated;
//   the same programs with words overwritten: an error or a step that stays inside its memory, nothing else;
//   with -DBITNET_LIBFUZZER, the second part as a libFuzzer target.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "../include/engine.h"
#include "../include/isa.h"
#include "../include/pool.h"

using namespace bitnet;

namespace {

struct Random {
  uint64_t state;
  uint32_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
  }
  int below(int n) { return (int)(next() % (uint32_t)n); }
};

int32_t bits_of(float f) {
  int32_t b;
  memcpy(&b, &f, 4);
  return b;
}

/** A one-layer transformer with a dense or int8 head, as words and blobs. */
struct Program {
  std::vector<int32_t> words;
  std::vector<std::vector<uint8_t>> data;
  std::vector<Blob> blobs;
  int32_t vocab, context = 200;

  std::vector<int32_t> buffers, weights, ops;
  int32_t buffer(int codes, int outputs, int width) {
    buffers.insert(buffers.end(), {codes, outputs, width});
    return (int32_t)buffers.size() / 3 - 1;
  }
  int32_t blob(std::vector<uint8_t> bytes) {
    data.push_back(std::move(bytes));
    return (int32_t)data.size() - 1;
  }
  static std::vector<uint8_t> floats(Random& r, size_t n) {
    std::vector<uint8_t> bytes(4 * n);
    for (size_t i = 0; i < n; i += 1) {
      const float f = (float)(r.below(2001) - 1000) * 1e-3f;
      memcpy(&bytes[4 * i], &f, 4);
    }
    return bytes;
  }
  int32_t weight(std::vector<int32_t> w) {
    w.resize(8);
    weights.insert(weights.end(), w.begin(), w.end());
    return (int32_t)weights.size() / 8 - 1;
  }
  int32_t ternary(Random& r, int rows, int columns) {
    std::vector<uint8_t> bytes((size_t)((rows + 3) / 4 * columns));
    for (auto& b : bytes) b = (uint8_t)(r.below(3) | r.below(3) << 2 | r.below(3) << 4 | r.below(3) << 6);
    return weight({0, rows, columns, 0, blob(std::move(bytes)), bits_of(0.05f)});
  }
  int32_t norm(Random& r, int n) { return weight({3, 1, n, 0, blob(floats(r, (size_t)n))}); }
  void op(std::vector<int32_t> o) {
    o.resize(8);
    ops.insert(ops.end(), o.begin(), o.end());
  }

  explicit Program(Random& r) {
    const int kv_heads = 1 + r.below(3), per_kv = 1 + r.below(5), heads = kv_heads * per_kv, D = 2 * (1 + r.below(20));
    const int hidden = 1 + r.below(150), ffn = 1 + r.below(300), int8 = r.below(2);
    vocab = 2 + r.below(100);
    const int x = buffer(0, 0, hidden), n = buffer(0, 0, hidden), c = buffer(1, 0, hidden), s = buffer(0, 0, 1);
    const int q = buffer(0, 0, heads * D), k = buffer(0, 0, kv_heads * D), v = buffer(0, 0, kv_heads * D);
    const int a = buffer(0, 0, heads * D), ac = buffer(1, 0, heads * D), g = buffer(0, 0, ffn), u = buffer(0, 0, ffn);
    const int gc = buffer(1, 0, ffn), d = buffer(0, 0, hidden), last = buffer(0, 1, hidden), lc = buffer(1, 1, hidden);
    const int ls = buffer(0, 1, 1), logits = buffer(0, 1, vocab);
    const int cos = blob(floats(r, (size_t)(context * D / 2))), sin = blob(floats(r, (size_t)(context * D / 2)));
    const int table = weight({1, vocab, hidden, 0, blob(floats(r, (size_t)(vocab * hidden)))});
    op({0, table, x});
    op({1, x, norm(r, hidden), bits_of(1e-5f), n});
    op({2, n, c, s});
    op({3, c, s, ternary(r, heads * D, hidden), q});
    op({3, c, s, ternary(r, kv_heads * D, hidden), k});
    op({3, c, s, ternary(r, kv_heads * D, hidden), v});
    op({4, q, heads, D});
    op({4, k, kv_heads, D});
    op({5, 0, k, v});
    op({6, 0, q, a, heads, kv_heads, D, bits_of(0.2f)});
    op({2, a, ac, s});
    op({3, ac, s, ternary(r, hidden, heads * D), d});
    op({8, x, d});
    op({1, x, norm(r, hidden), bits_of(1e-5f), n});
    op({2, n, c, s});
    op({3, c, s, ternary(r, ffn, hidden), g});
    op({3, c, s, ternary(r, ffn, hidden), u});
    op({7, r.below(2), g, u, g});
    op({2, g, gc, s});
    op({3, gc, s, ternary(r, hidden, ffn), d});
    op({8, x, d});
    op({12, x, 0});
    op({9, x, last});
    if (int8) {
      std::vector<uint8_t> codes((size_t)(vocab * hidden));
      for (auto& b : codes) b = (uint8_t)r.next();
      const int bytes = blob(std::move(codes)), scales = blob(floats(r, (size_t)vocab));
      op({2, last, lc, ls});
      op({11, lc, ls, weight({2, vocab, hidden, 0, bytes, 0, scales}), logits});
    } else {
      op({10, last, table, logits});
    }
    words = {kProgramMagic, (int32_t)buffers.size() / 3, (int32_t)weights.size() / 8, (int32_t)ops.size() / 8,
             1,             kv_heads,                    D,                           D,
             context,       vocab,                       logits,                      1,
             cos,           sin};
    words.insert(words.end(), buffers.begin(), buffers.end());
    words.insert(words.end(), weights.begin(), weights.end());
    words.insert(words.end(), ops.begin(), ops.end());
    for (const auto& bytes : data) blobs.push_back(Blob{bytes.data(), bytes.size()});
  }
};

struct EngineDeleter {
  void operator()(Engine* e) const { engine_free(e); }
};

/** Runs rows of one sequence; false when the step failed. */
bool run(Engine* e, Pool& pool, int32_t sequence, std::vector<int32_t> tokens, bool alone, std::vector<float>& logits) {
  const int32_t length = engine_sequence_length(e, sequence), n = (int32_t)tokens.size();
  std::vector<int32_t> sequences((size_t)n, sequence), positions, outputs;
  for (int32_t i = 0; i < n; i += 1) positions.push_back(length + i), outputs.push_back(i);
  const EngineSizes sizes = engine_sizes(e);
  std::vector<float> out((size_t)(n * sizes.vocab));
  std::vector<int32_t> counts((size_t)(n * sizes.trace_points * 3));
  Failure f;
  const Step step{n, tokens.data(), sequences.data(), positions.data(), n, outputs.data(), true, out.data(), counts.data()};
  if (!engine_begin(e, step, &f)) return false;
  pool.run(e, alone);
  if (!engine_end(e, &f)) return false;
  logits.insert(logits.end(), out.begin(), out.end());
  return true;
}

/** A fixed walk: prompt, single tokens, fork, truncation. */
bool walk(Engine* e, Pool& pool, uint32_t seed, int32_t vocab, std::vector<float>& logits) {
  Random r{seed};
  const auto some = [&](int n) {
    std::vector<int32_t> t;
    for (int i = 0; i < n; i += 1) t.push_back(r.below(vocab));
    return t;
  };
  const int32_t a = engine_sequence_create(e);
  if (!run(e, pool, a, some(70), false, logits)) return false;
  for (int i = 0; i < 3; i += 1)
    if (!run(e, pool, a, some(1), false, logits)) return false;
  Failure f;
  const int32_t b = engine_fork(e, a, 1 + r.below(72), &f);
  if (b < 0 || !run(e, pool, b, some(5), false, logits) || !run(e, pool, a, some(2), true, logits)) return false;
  engine_truncate(e, a, r.below(60), &f);
  if (!run(e, pool, a, some(4), false, logits)) return false;
  engine_sequence_free(e, a);
  engine_sequence_free(e, b);
  return true;
}

/** Loads whatever the words say and, if they are taken, runs a step with every kernel. */
void try_words(const std::vector<int32_t>& words, const std::vector<Blob>& blobs, const Kernels* kernels, Pool& pool) {
  Failure f;
  std::unique_ptr<Engine, EngineDeleter> e(
      engine_create(words.data(), words.size(), blobs.data(), (uint32_t)blobs.size(), kernels, pool.threads(), 2048, &f));
  if (!e) {
    if (f.status == Status::ok || !f.text[0]) abort();
    return;
  }
  const int32_t s = engine_sequence_create(e.get());
  std::vector<float> logits;
  if (engine_sizes(e.get()).vocab > 1 << 20) return;
  for (int n : {3, 1, 20}) run(e.get(), pool, s, std::vector<int32_t>((size_t)n, 0), false, logits);
}

const Program& fuzz_program(int which) {
  static std::vector<std::unique_ptr<Program>> all;
  while (all.size() < 16) {
    Random r{all.size() + 77};
    all.emplace_back(new Program(r));
  }
  return *all[(size_t)which % all.size()];
}

void mutate_and_try(Random& r, Pool& pool) {
  const Program& p = fuzz_program(r.below(16));
  std::vector<int32_t> words = p.words;
  const int edits = 1 + r.below(4);
  for (int i = 0; i < edits; i += 1) {
    int32_t& word = words[(size_t)r.below((int)words.size())];
    const int kind = r.below(6);
    word = kind == 0 ? r.below(40) : kind == 1 ? word + r.below(5) - 2 : kind == 2 ? (int32_t)(r.next() * 2 + (uint32_t)r.below(2))
           : kind == 3 ? -1 : kind == 4 ? INT32_MAX - r.below(3) : words[(size_t)r.below((int)words.size())];
  }
  if (r.below(50) == 0) words.resize((size_t)r.below((int)words.size()));
  const Kernels* tables[kMaxIsas];
  const int n = usable_isas(tables);
  try_words(words, p.blobs, tables[r.below(n)], pool);
}

}  // namespace

#if defined(BITNET_LIBFUZZER)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  static Pool pool(1);
  if (size < 1) return 0;
  const Program& p = fuzz_program(bytes[0]);
  std::vector<int32_t> words = p.words;
  // Edits of (place, value); what remains replaces the front of the program.
  for (size_t at = 1; at + 6 <= size; at += 6) {
    uint16_t place;
    memcpy(&place, bytes + at, 2);
    memcpy(&words[place % words.size()], bytes + at + 2, 4);
  }
  try_words(words, p.blobs, find_isa(""), pool);
  return 0;
}

#else

int main(int argc, char** argv) {
  const int programs = argc > 1 ? atoi(argv[1]) : 20, mutants = argc > 2 ? atoi(argv[2]) : 2000;
  const Kernels* tables[kMaxIsas];
  const int n = usable_isas(tables);
  for (int i = 0; i < programs; i += 1) {
    Random r{(uint64_t)i + 1};
    const Program p(r);
    std::vector<float> expected;
    for (int t = 0; t < n; t += 1) {
      for (int threads = 1; threads <= 4; threads += 1) {
        Failure f;
        std::unique_ptr<Engine, EngineDeleter> e(engine_create(p.words.data(), p.words.size(), p.blobs.data(),
                                                               (uint32_t)p.blobs.size(), tables[t], threads, 2048, &f));
        if (!e) return printf("program %d refused: %s\n", i, f.text), 1;
        Pool pool(threads);
        std::vector<float> logits;
        // A number of threads for each program and, for every other one, those that measurements choose.
        pool.use(i % 2 ? 1 + i % threads : 0);
        if (!walk(e.get(), pool, (uint32_t)i, p.vocab, logits)) return printf("program %d: a step failed\n", i), 1;
        if (expected.empty()) expected = logits;
        if (expected.size() != logits.size() || memcmp(expected.data(), logits.data(), 4 * logits.size()))
          return printf("program %d: %s with %d threads differs\n", i, tables[t]->isa, threads), 1;
      }
    }
  }
  printf("%d programs: the same logits on %d instruction sets and 1 to 4 threads\n", programs, n);
  Random r{12345};
  Pool pool(2);
  for (int i = 0; i < mutants; i += 1) mutate_and_try(r, pool);
  printf("%d damaged programs: refused or run within their memory\n", mutants);
  return 0;
}

#endif
