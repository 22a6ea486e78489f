// Compares every training kernel of every instruction set that runs here with the scalar one, bit for bit, with nothing
// but a C++ compiler; with --bench also times the matrix kernels on one thread. Built by scripts/selftest-train.sh.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "isa.h"

using namespace bitnet_train;

namespace {

struct Numbers {
  uint64_t state;
  double next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) / 9007199254740992.0;
  }
  std::vector<float> floats(int64_t n, double size = 1) {
    std::vector<float> out((size_t)n);
    for (auto& x : out) x = (float)((next() + next() + next() - 1.5) * 2 * size);
    return out;
  }
  std::vector<int8_t> bytes(int64_t n, int low, int high) {
    std::vector<int8_t> out((size_t)n);
    for (auto& x : out) x = (int8_t)(low + (int)(next() * (high - low + 1)));
    return out;
  }
};

/** What a set of kernels gives for one shape: all outputs, one after the other. */
std::vector<float> run_all(const Kernels& k, int64_t T, int64_t R, int64_t C) {
  Numbers n{(uint64_t)(T * 7919 + R * 31 + C)};
  std::vector<float> all;
  const auto take = [&](const std::vector<float>& x) { all.insert(all.end(), x.begin(), x.end()); };
  const auto codes = n.bytes(T * C, -127, 127), trits = n.bytes(R * C, -1, 1);
  auto scale = n.floats(T, 9);
  for (auto& s : scale) s = fabsf(s) + 1;
  const auto dy = n.floats(T * R, 0.01), x = n.floats(T * C), w = n.floats(R * C), weight = n.floats(C);
  std::vector<float> out((size_t)(T * R)), dx = n.floats(T * C), dw = n.floats(R * C), r((size_t)T), normed((size_t)(T * C));

  const BitForward forward{codes.data(), scale.data(), trits.data(), 0.37f, T, R, C, out.data()};
  for (int64_t i = 0; i < forward.items(); i += 1) k.bit_forward(forward, i);
  take(out);
  for (const int8_t* t : {trits.data(), (const int8_t*)nullptr}) {
    const BackwardInput back{dy.data(), t, w.data(), 0.37f, T, R, C, dx.data()};
    for (int64_t i = 0; i < back.items(); i += 1) k.backward_input(back, i);
    take(dx);
  }
  for (int64_t columns : {64, 512}) {
    BackwardWeight back{dy.data(), x.data(), T, R, C, dw.data(), columns};
    for (int64_t i = 0; i < back.items(); i += 1) k.backward_weight(back, i);
    take(dw);
  }
  const DenseForward dense{x.data(), w.data(), T, R, C, out.data()};
  for (int64_t i = 0; i < dense.items(); i += 1) k.dense_forward(dense, i);
  take(out);
  Norm norm{x.data(), weight.data(), 1e-5f, T, C, r.data(), normed.data(), dx.data(), normed.data(), dw.data()};
  k.norm_forward(norm, 0, T);
  take(normed), take(r);
  std::vector<float> scratch((size_t)C);
  k.norm_backward_rows(norm, 0, T, scratch.data());
  k.norm_backward_weight(norm, 0, C);
  take(normed), take(dw);
  std::vector<int8_t> quantized((size_t)(T * C));
  k.quantize_rows(x.data(), C, 0, T, quantized.data(), r.data());
  for (int8_t c : quantized) all.push_back(c);
  take(r);
  k.dequantize_rows(quantized.data(), r.data(), C, 0, T, normed.data());
  take(normed);
  std::vector<int8_t> taken((size_t)(R * C));
  all.push_back(k.quantize_weights(w.data(), R * C, taken.data()));
  for (int8_t c : taken) all.push_back(c);
  for (Gate fn : {Gate::relu2, Gate::silu}) {
    std::vector<float> a((size_t)(T * C)), b((size_t)(T * C));
    k.gate_forward(fn, x.data(), dx.data(), T * C, a.data());
    take(a);
    k.gate_backward(fn, x.data(), dx.data(), normed.data(), T * C, a.data(), b.data());
    take(a), take(b);
  }
  std::vector<int32_t> targets((size_t)T);
  for (int64_t t = 0; t < T; t += 1) targets[(size_t)t] = t % 3 == 2 ? -1 : (int32_t)(t % C);
  std::vector<float> logits = n.floats(T * C, 5), sums((size_t)T), margins((size_t)T);
  k.cross_entropy(logits.data(), targets.data(), 0.2f, C, 0, T, sums.data(), margins.data());
  take(logits), take(sums), take(margins);
  auto p = w, m = n.floats(R * C, 0.01), v = n.floats(R * C, 0.01), g = n.floats(R * C, 0.01);
  for (auto& value : v) value *= value;
  k.adamw({p.data(), m.data(), v.data(), g.data(), .9f, .95f, .1f, .05f, 1e-8f, .999f, .01f, 3.f, .7f}, 0, R * C);
  take(p), take(m), take(v);
  k.sgd({p.data(), g.data(), .1f, .99f, .7f}, 0, R * C);
  k.add(p.data(), m.data(), R * C);
  take(p);
  all.push_back((float)k.sum_squares(w.data(), R * C));

  for (int64_t D : {16, 20, 80}) {
    const int64_t heads = 4, kv = 2, rows = T < 50 ? T : 50;
    auto q = n.floats(rows * heads * D, 2), key = n.floats(rows * kv * D, 2), value = n.floats(rows * kv * D);
    std::vector<float> o(q.size()), dq(q.size()), dk(key.size()), dv(key.size());
    const auto dout = n.floats(rows * heads * D);
    const Attention a{q.data(), key.data(), value.data(), o.data(), dout.data(), dq.data(), dk.data(), dv.data(),
                      heads, kv, D, 0.3f};
    std::vector<float> room((size_t)k.attention_scratch(rows));
    for (int64_t h = 0; h < heads; h += 1) k.attention_forward(a, {0, 0, rows, h}, room.data());
    for (int64_t h = 0; h < kv; h += 1) k.attention_backward(a, {0, 0, rows, h}, room.data());
    take(o), take(dq), take(dk), take(dv);
    std::vector<int32_t> positions((size_t)rows);
    for (int64_t t = 0; t < rows; t += 1) positions[(size_t)t] = (int32_t)(t % 7);
    const auto c = n.floats(7 * D), s = n.floats(7 * D);
    k.rope(q.data(), positions.data(), c.data(), s.data(), heads, D, -1.0f, 0, rows);
    take(q);
  }
  return all;
}

void bench(const Kernels& k) {
  Numbers n{1};
  const int64_t T = 512, R = 1024, C = 512;
  const auto codes = n.bytes(T * C, -127, 127), trits = n.bytes(R * C, -1, 1);
  const auto scale = n.floats(T), dy = n.floats(T * R), x = n.floats(T * C), w = n.floats(R * C);
  std::vector<float> out((size_t)(T * R)), dx((size_t)(T * C)), dw((size_t)(R * C));
  const auto time = [&](const char* name, const std::function<void()>& call) {
    call();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 5; i += 1) call();
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 5;
    printf("%s %s %.1f G multiply-adds/s\n", k.isa, name, (double)(T * R * C) / s / 1e9);
  };
  time("forward, int8", [&] {
    const BitForward a{codes.data(), scale.data(), trits.data(), 1, T, R, C, out.data()};
    for (int64_t i = 0; i < a.items(); i += 1) k.bit_forward(a, i);
  });
  time("dx, float x trits", [&] {
    const BackwardInput a{dy.data(), trits.data(), nullptr, 1, T, R, C, dx.data()};
    for (int64_t i = 0; i < a.items(); i += 1) k.backward_input(a, i);
  });
  time("dx, float x float", [&] {
    const BackwardInput a{dy.data(), nullptr, w.data(), 1, T, R, C, dx.data()};
    for (int64_t i = 0; i < a.items(); i += 1) k.backward_input(a, i);
  });
  time("dw, float x float", [&] {
    BackwardWeight a{dy.data(), x.data(), T, R, C, dw.data(), 512};
    for (int64_t i = 0; i < a.items(); i += 1) k.backward_weight(a, i);
  });
  time("head, lane sums", [&] {
    const DenseForward a{x.data(), w.data(), T, R, C, out.data()};
    for (int64_t i = 0; i < a.items(); i += 1) k.dense_forward(a, i);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const Kernels* tables[kMaxTables];
  const int count = usable(tables);
  const int64_t shapes[][3] = {{1, 1, 2}, {7, 5, 15}, {13, 50, 33}, {70, 67, 130}, {301, 49, 48}, {5, 8, 2100}};
  int bad = 0;
  for (int i = 0; i < count; i += 1) {
    const int before = bad;
    for (const auto& s : shapes) {
      const auto expected = run_all(kScalar, s[0], s[1], s[2]), actual = run_all(*tables[i], s[0], s[1], s[2]);
      const bool same = expected.size() == actual.size() && !memcmp(expected.data(), actual.data(), 4 * expected.size());
      if (!same) {
        size_t at = 0;
        while (!memcmp(&expected[at], &actual[at], 4)) at += 1;
        printf("%s differs for T %d R %d C %d at output %zu: %g, scalar %g\n", tables[i]->isa, (int)s[0], (int)s[1],
               (int)s[2], at, actual[at], expected[at]);
        bad += 1;
      }
    }
    printf("%s: %s\n", tables[i]->isa, bad > before ? "DIFFERENT" : "same bits as scalar");
  }
  if (argc > 1 && !strcmp(argv[1], "--bench"))
    for (int i = 0; i < count; i += 1) bench(*tables[i]);
  return bad ? 1 : 0;
}
