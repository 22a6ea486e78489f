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

/**
 * A small model of random sizes, as words and blobs: ternary or group-scaled matrices, attention whole or in windows, the
 * delta rule, experts, rotations; a dense or int8 head.
 */
struct Program {
  std::vector<int32_t> words;
  std::vector<std::vector<uint8_t>> data;
  std::vector<Blob> blobs;
  int32_t vocab, context = 320;

  std::vector<int32_t> buffers, weights, ops, windows, states;
  int32_t n_ops = 0, choices = 0;
  bool grouped, rotated;
  static constexpr int kF32 = 0, kI8 = 1, kI16 = 2, kI32 = 3, kTokens = 0, kOutputs = 1, kChoices = 2;

  int32_t buffer(int width, int rows = kTokens, int type = kF32, int group = 0) {
    buffers.insert(buffers.end(), {type, rows, width, group});
    return (int32_t)buffers.size() / kBufferWords - 1;
  }
  int rows_of(int32_t id) const { return buffers[(size_t)(id * kBufferWords + 1)]; }
  int width_of(int32_t id) const { return buffers[(size_t)(id * kBufferWords + 2)]; }
  int32_t blob(std::vector<uint8_t> bytes) {
    data.push_back(std::move(bytes));
    return (int32_t)data.size() - 1;
  }
  static std::vector<uint8_t> floats(Random& r, size_t n, int middle = 0) {
    std::vector<uint8_t> bytes(4 * n);
    for (size_t i = 0; i < n; i += 1) {
      const float f = (float)(r.below(2001) - 1000 + middle) * 1e-3f;
      memcpy(&bytes[4 * i], &f, 4);
    }
    return bytes;
  }
  int32_t weight(std::vector<int32_t> w) {
    w.resize((size_t)kWeightWords);
    if (w.back() == 0) w.back() = 1;
    weights.insert(weights.end(), w.begin(), w.end());
    return (int32_t)weights.size() / kWeightWords - 1;
  }
  int32_t vector(Random& r, int n) { return weight({(int32_t)WeightKind::vector, 1, n, 0, blob(floats(r, (size_t)n))}); }
  void op(OpKind kind, std::vector<int32_t> fields) {
    if ((int32_t)fields.size() != kOpShapes[(int)kind].words) {
      printf("%s has %d words\n", kOpShapes[(int)kind].name, kOpShapes[(int)kind].words);
      abort();
    }
    ops.push_back((int32_t)kind);
    ops.insert(ops.end(), fields.begin(), fields.end());
    n_ops += 1;
  }
  int32_t matrix(Random& r, int rows, int columns, int experts = 0) {
    if (!grouped && experts == 0) {
      std::vector<uint8_t> bytes((size_t)((rows + 3) / 4 * columns));
      for (auto& b : bytes) b = (uint8_t)(r.below(3) | r.below(3) << 2 | r.below(3) << 4 | r.below(3) << 6);
      return weight({(int32_t)WeightKind::ternary, rows, columns, 0, blob(std::move(bytes)), bits_of(0.05f)});
    }
    const int n = experts ? experts : 1;
    std::vector<uint8_t> bytes((size_t)(n * panels_of(rows) * panel_bytes(columns)));
    for (auto& b : bytes) b = (uint8_t)r.next();
    const int32_t codes = blob(std::move(bytes));
    const int32_t scales = blob(floats(r, (size_t)(n * panels_of(rows) * kGroupedRows)));
    return weight({(int32_t)WeightKind::grouped, rows, columns, 0, codes, 0, scales, columns, n});
  }
  struct Operand {
    int32_t codes, scale;
  };
  Operand operand(Random& r, int32_t x, bool sixteen, int key_heads = 0, int head_dim = 0) {
    const int n = width_of(x), rows = rows_of(x);
    int block = 1;
    while (n % (2 * block) == 0) block *= 2;
    if (rotated && block > 1) {
      std::vector<uint8_t> signs((size_t)n * 4);
      for (int i = 0; i < n; i += 1) {
        const float f = r.below(2) ? 1.0f : -1.0f;
        memcpy(&signs[(size_t)i * 4], &f, 4);
      }
      const int32_t id = weight({(int32_t)WeightKind::vector, 1, n, 0, blob(std::move(signs))});
      const int32_t out = key_heads ? buffer(n, rows) : x;
      op(OpKind::hadamard, {x, id, block, key_heads ? 0 : r.below(2), key_heads, head_dim, out});
      x = out;
    }
    const Operand made{buffer(n, rows, sixteen ? kI16 : kI8, sixteen ? n : 0), buffer(1, rows)};
    op(sixteen ? OpKind::quantize16 : OpKind::quantize, {x, made.codes, made.scale});
    return made;
  }
  int32_t product(Random& r, Operand x, int rows) {
    const int32_t out = buffer(rows, rows_of(x.codes));
    op(grouped ? OpKind::grouped_matmul : OpKind::ternary_matmul, {x.codes, x.scale, matrix(r, rows, width_of(x.codes)), out});
    return out;
  }
  int32_t norm(Random& r, int32_t x) {
    const int32_t out = buffer(width_of(x), rows_of(x));
    op(OpKind::rms_norm, {x, vector(r, width_of(x)), bits_of(1e-5f), out});
    return out;
  }

  int32_t attention(Random& r, Operand in, int kv_heads, int heads, int D) {
    const int32_t both = product(r, in, 2 * heads * D), q = buffer(heads * D), gate = buffer(heads * D);
    const int32_t k = product(r, in, kv_heads * D), v = product(r, in, kv_heads * D), out = buffer(heads * D);
    const int32_t layer = (int32_t)windows.size();
    windows.push_back(r.below(2) ? 0 : 1 + r.below(100));
    op(OpKind::split_heads, {both, q, gate, heads, D});
    op(OpKind::rms_norm_heads, {q, vector(r, D), bits_of(1e-5f), heads, D, q});
    op(OpKind::rope, {q, heads, D});
    op(OpKind::rope, {k, kv_heads, D});
    op(OpKind::kv_append, {layer, k, v});
    op(OpKind::attention, {layer, q, out, heads, kv_heads, D, bits_of(0.2f)});
    op(OpKind::gated_activation, {2, 0, gate, out, gate});
    return gate;
  }
  int32_t delta(Random& r, Operand in, int& key_heads, int& D) {
    key_heads = 1 + r.below(2);
    D = 1 + r.below(30);
    const int value_heads = key_heads * (1 + r.below(3)), width = (2 * key_heads + value_heads) * D, taps = 1 + r.below(5);
    const int32_t mixed = product(r, in, width), z = product(r, in, value_heads * D), x = buffer(width);
    const int32_t beta = product(r, in, value_heads), alpha = product(r, in, value_heads), out = buffer(value_heads * D);
    states.push_back((taps - 1) * width);
    states.push_back(value_heads * D * D);
    const int32_t at = (int32_t)states.size() - 2;
    op(OpKind::causal_conv, {at, mixed, vector(r, taps * width), taps, x});
    op(OpKind::l2_norm_heads, {x, 0, 2 * key_heads, D, bits_of(1e-6f), bits_of(0.5f)});
    // A positive decay would let states grow without end.
    const int32_t decay = weight({(int32_t)WeightKind::vector, 1, value_heads, 0, blob(floats(r, (size_t)value_heads, -1000))});
    op(OpKind::gated_delta, {at + 1, x, beta, alpha, decay, vector(r, value_heads), key_heads, value_heads, D,
                             r.below(2), out});
    op(OpKind::gated_activation, {1, 0, z, out, z});
    return z;
  }
  int32_t experts(Random& r, int32_t n, int hidden, int ffn, int32_t x) {
    const int count = choices + r.below(9);
    const int32_t logits = buffer(count), chosen = buffer(choices, kTokens, kI32), shares = buffer(choices);
    const int32_t router = weight({(int32_t)WeightKind::dense, count, hidden, 0, blob(floats(r, (size_t)(count * hidden)))});
    op(OpKind::dense_matmul, {n, router, logits});
    op(OpKind::route_experts, {logits, chosen, shares, bits_of(1e-6f)});
    const auto each = [&](Operand in, int rows) {
      const int32_t out = buffer(rows, kChoices);
      op(OpKind::expert_matmul, {in.codes, in.scale, matrix(r, rows, width_of(in.codes), count), chosen, out});
      return out;
    };
    const Operand in = operand(r, n, true);
    const int32_t gate = each(in, ffn), up = each(in, ffn);
    op(OpKind::gated_activation, {3, bits_of(0.5f), gate, up, gate});
    op(OpKind::add_experts, {x, each(operand(r, gate, true), hidden), shares});
    return x;
  }

  explicit Program(Random& r) {
    const int kv_heads = 1 + r.below(3), per_kv = 1 + r.below(5), heads = kv_heads * per_kv, D = 2 * (1 + r.below(20));
    const int hidden = 1 + r.below(150), ffn = 1 + r.below(200), int8 = r.below(2), rotary = 2 * (1 + r.below(D / 2));
    grouped = r.below(2);
    rotated = r.below(2);
    choices = r.below(2) ? 1 + r.below(5) : 0;
    vocab = 2 + r.below(100);
    const int32_t x = buffer(hidden);
    const int32_t cos = blob(floats(r, (size_t)(context * rotary / 2))), sin = blob(floats(r, (size_t)(context * rotary / 2)));
    const int32_t table = weight({(int32_t)WeightKind::dense, vocab, hidden, 0, blob(floats(r, (size_t)(vocab * hidden)))});
    op(OpKind::embed, {table, x});
    const int layers = 1 + r.below(3);
    for (int i = 0; i < layers; i += 1) {
      const Operand in = operand(r, norm(r, x), grouped);
      int key_heads = 0, delta_dim = 0;
      const int32_t mixed = r.below(2) ? delta(r, in, key_heads, delta_dim) : attention(r, in, kv_heads, heads, D);
      const bool moved = r.below(2);
      op(OpKind::add, {x, product(r, operand(r, mixed, grouped, moved ? key_heads : 0, moved ? delta_dim : 0), hidden)});
      const int32_t n = norm(r, x);
      if (choices && r.below(2)) {
        experts(r, n, hidden, ffn, x);
      } else {
        const Operand wide = operand(r, n, grouped);
        const int32_t gate = product(r, wide, ffn), up = product(r, wide, ffn);
        op(OpKind::gated_activation, {r.below(4), bits_of(0.75f), gate, up, gate});
        op(OpKind::add, {x, product(r, operand(r, gate, grouped), hidden)});
      }
    }
    op(OpKind::count_trits, {x, 0});
    const int32_t last = buffer(hidden, kOutputs), logits = buffer(vocab, kOutputs);
    op(OpKind::select_outputs, {x, last});
    if (int8) {
      std::vector<uint8_t> codes((size_t)(vocab * hidden));
      for (auto& b : codes) b = (uint8_t)r.next();
      const int32_t bytes = blob(std::move(codes)), scales = blob(floats(r, (size_t)vocab));
      const Operand in{buffer(hidden, kOutputs, kI8), buffer(1, kOutputs)};
      op(OpKind::quantize, {last, in.codes, in.scale});
      op(OpKind::int8_matmul, {in.codes, in.scale, weight({(int32_t)WeightKind::int8, vocab, hidden, 0, bytes, 0, scales}), logits});
    } else {
      op(OpKind::dense_matmul, {last, table, logits});
    }
    words = {kProgramMagic, (int32_t)buffers.size() / kBufferWords, (int32_t)weights.size() / kWeightWords, n_ops, (int32_t)ops.size(),
             (int32_t)windows.size(), kv_heads, D, rotary, context, vocab, logits, 1, cos, sin, (int32_t)states.size(), choices};
    for (const auto* part : {&buffers, &weights, &ops, &windows, &states}) words.insert(words.end(), part->begin(), part->end());
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
  // As when threads are lost in the middle of an attention: the step begins again, unless states went with it.
  if (engine_memory(e).recurrent == 0) {
    for (int32_t stage = 0; stage < engine_stages(e); stage += 1) {
      const bool last = engine_starts_layer(e, stage);
      for (int32_t i = 0; i < engine_items(e, stage) - last; i += 1) engine_run_item(e, stage, i, 0);
      if (last) break;
    }
    if (engine_abandon(e) || !engine_begin(e, step, &f)) return false;
  }
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
  // Sometimes so long that threads share the keys of one row.
  if (!run(e, pool, a, some(seed % 3 == 0 ? 230 : 70), false, logits)) return false;
  for (int i = 0; i < 3; i += 1)
    if (!run(e, pool, a, some(1), false, logits)) return false;
  Failure f;
  // As far back as it goes: all the way without windows and recurrent states.
  const auto back = [&](int32_t sequence) {
    const int32_t length = engine_sequence_length(e, sequence), limit = engine_rewind_limit(e, sequence);
    if (limit > 1 && (engine_truncate(e, sequence, limit - 1, &f) || engine_fork(e, sequence, limit - 1, &f) >= 0)) abort();
    return limit + r.below(length - limit + 1);
  };
  const int32_t b = engine_fork(e, a, back(a), &f);
  if (b < 0 || !run(e, pool, b, some(5), false, logits) || !run(e, pool, a, some(2), true, logits)) return false;
  if (!engine_truncate(e, a, back(a), &f) || !run(e, pool, a, some(4), false, logits)) return false;
  if (!engine_truncate(e, a, 0, &f) || engine_rewind_limit(e, a) != 0 || !run(e, pool, a, some(40), false, logits)) return false;
  engine_sequence_free(e, a);
  engine_sequence_free(e, b);
  const Memory left = engine_memory(e);
  return left.kv == 0 && left.recurrent == 0;
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
  for (int n : {3, 1, 20}) {
    run(e.get(), pool, s, std::vector<int32_t>((size_t)n, 0), false, logits);
    const int32_t fork = engine_fork(e.get(), s, engine_rewind_limit(e.get(), s), &f);
    if (fork < 0 && f.status != Status::out_of_memory) abort();
    if (fork >= 0) run(e.get(), pool, fork, {0}, false, logits);
  }
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
