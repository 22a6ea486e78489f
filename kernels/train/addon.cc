// Node-API glue of the training kernels: reads arguments, checks every length, calls. No arithmetic. Functions have the
// names and arguments of src/train/ops/*.ts, with objects flattened to numbers; all are synchronous, since training runs
// in a process of its own.
//
//   configure(threads, isa) -> {threads, isa}    must come first; isa "" takes the best
//   isas() -> string[]                           usable here, best first
#define NAPI_VERSION 8
#include <node_api.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "isa.h"
#include "pool.h"

using namespace bitnet_train;

namespace {

struct State {
  const Kernels* kernels = nullptr;
  std::unique_ptr<Pool> pool;
  std::vector<float> dequantized;
  std::vector<std::vector<float>> scratch;  // one a thread

  float* scratch_of(int thread, int64_t floats) {
    auto& own = scratch[(size_t)thread];
    if ((int64_t)own.size() < floats) own.resize((size_t)floats);
    return own.data();
  }
};

constexpr int kMaxThreads = 256;
constexpr int64_t kElements = 16384;  // elementwise work is dealt out in pieces of this size
constexpr int64_t kRows = 16;

/** Arguments of one call; the first that does not fit throws and makes `ok` false. */
class Call {
 public:
  Call(napi_env env, napi_callback_info info) : env_(env) {
    argc_ = 24;
    void* data = nullptr;
    if (napi_get_cb_info(env, info, &argc_, argv_, nullptr, &data) != napi_ok) fail("cannot read the arguments");
    napi_get_instance_data(env, (void**)&state_);
  }

  bool ok() const { return ok_; }
  State& state() { return *state_; }
  bool configured() {
    if (!state_->pool) fail("call configure first");
    return ok_;
  }

  double number() {
    double value = 0;
    if (!next() || napi_get_value_double(env_, argv_[at_ - 1], &value) != napi_ok) fail("expected a number");
    return value;
  }
  /** A size: a whole number from 0 to 2^40. */
  int64_t size() {
    const double value = number();
    if (!(value >= 0 && value <= 1099511627776.0 && value == std::floor(value))) return fail("expected a size"), 0;
    return (int64_t)value;
  }
  float f32() { return (float)number(); }
  std::string text() {
    char buffer[32] = {};
    size_t n = 0;
    if (!next() || napi_get_value_string_utf8(env_, argv_[at_ - 1], buffer, sizeof buffer, &n) != napi_ok)
      fail("expected a string");
    return buffer;
  }
  float* floats(int64_t least, int64_t* length = nullptr) {
    return (float*)array(napi_float32_array, least, "a Float32Array", length);
  }
  int8_t* bytes(int64_t least, int64_t* length = nullptr) {
    return (int8_t*)array(napi_int8_array, least, "an Int8Array", length);
  }
  int32_t* ints(int64_t least, int64_t* length = nullptr) {
    return (int32_t*)array(napi_int32_array, least, "an Int32Array", length);
  }
  /** Skips an argument whose length depends on later ones; read it with `again`. */
  size_t mark() const { return at_; }
  void skip() { next(); }
  void back(size_t mark) { at_ = mark; }

  napi_value list(uint32_t* length) {
    bool is = false;
    if (!next() || napi_is_array(env_, argv_[at_ - 1], &is) != napi_ok || !is ||
        napi_get_array_length(env_, argv_[at_ - 1], length) != napi_ok)
      return fail("expected an array"), nullptr;
    return argv_[at_ - 1];
  }
  void* typed(napi_value value, napi_typedarray_type type, int64_t least, const char* what, int64_t* length) {
    bool is = false;
    napi_typedarray_type actual;
    size_t n = 0, offset;
    void* data = nullptr;
    napi_value buffer;
    if (!ok_) return nullptr;
    if (napi_is_typedarray(env_, value, &is) != napi_ok || !is ||
        napi_get_typedarray_info(env_, value, &actual, &n, &data, &buffer, &offset) != napi_ok || actual != type)
      return fail((std::string("argument ") + std::to_string(at_) + ": expected " + what).c_str()), nullptr;
    if ((int64_t)n < least)
      return fail((std::string("argument ") + std::to_string(at_) + ": " + std::to_string(n) + " elements, needs " +
                   std::to_string(least))
                      .c_str()),
             nullptr;
    if (length) *length = (int64_t)n;
    return data;
  }
  void fail(const char* text) {
    if (ok_) napi_throw_type_error(env_, nullptr, text);
    ok_ = false;
  }

 private:
  bool next() {
    if (at_ >= argc_) fail("too few arguments");
    at_ += 1;
    return ok_;
  }
  void* array(napi_typedarray_type type, int64_t least, const char* what, int64_t* length) {
    if (!next()) return nullptr;
    return typed(argv_[at_ - 1], type, least, what, length);
  }

  napi_env env_;
  size_t argc_ = 0, at_ = 0;
  napi_value argv_[24];
  State* state_ = nullptr;
  bool ok_ = true;
};

napi_value number_value(napi_env env, double value) {
  napi_value v;
  napi_create_double(env, value, &v);
  return v;
}

void over_rows(State& s, int64_t rows, const std::function<void(int64_t, int64_t, int)>& task) {
  s.pool->run((rows + kRows - 1) / kRows, [&](int64_t i, int thread) {
    task(i * kRows, (i + 1) * kRows < rows ? (i + 1) * kRows : rows, thread);
  });
}
void over_elements(State& s, int64_t n, const std::function<void(int64_t, int64_t)>& task) {
  s.pool->run((n + kElements - 1) / kElements, [&](int64_t i, int) {
    task(i * kElements, (i + 1) * kElements < n ? (i + 1) * kElements : n);
  });
}

napi_value Configure(napi_env env, napi_callback_info info) {
  Call c(env, info);
  const int64_t threads = c.size();
  const std::string isa = c.text();
  if (!c.ok()) return nullptr;
  if (threads < 1 || threads > kMaxThreads) return c.fail("threads must be 1 to 256"), nullptr;
  const Kernels* kernels = find(isa.c_str());
  if (!kernels) return c.fail(("instruction set '" + isa + "' is not usable here").c_str()), nullptr;
  State& s = c.state();
  try {
    s.pool.reset(new Pool((int)threads));
  } catch (const std::exception& error) {
    return c.fail(error.what()), nullptr;
  }
  s.scratch.resize((size_t)threads);
  s.kernels = kernels;
  napi_value result, name;
  napi_create_object(env, &result);
  napi_create_string_utf8(env, kernels->isa, NAPI_AUTO_LENGTH, &name);
  napi_set_named_property(env, result, "isa", name);
  napi_set_named_property(env, result, "threads", number_value(env, (double)threads));
  return result;
}

napi_value Isas(napi_env env, napi_callback_info) {
  const Kernels* tables[kMaxTables];
  const int n = usable(tables);
  napi_value array;
  napi_create_array(env, &array);
  for (int i = 0; i < n; i += 1) {
    napi_value name;
    napi_create_string_utf8(env, tables[i]->isa, NAPI_AUTO_LENGTH, &name);
    napi_set_element(env, array, (uint32_t)i, name);
  }
  return array;
}

/** quantizeMatrices([w], [trits]) -> [scale]; NaN marks a matrix with no finite sum. One thread a matrix. */
napi_value QuantizeMatrices(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  uint32_t n = 0, m = 0;
  const napi_value weights = c.list(&n);
  const napi_value outs = c.list(&m);
  if (!c.ok()) return nullptr;
  if (n != m) return c.fail("two lists of one length are needed"), nullptr;
  struct Job {
    const float* w;
    int8_t* trits;
    int64_t length;
    float scale;
  };
  std::vector<Job> jobs(n);
  for (uint32_t i = 0; i < n; i += 1) {
    napi_value w, t;
    napi_get_element(env, weights, i, &w);
    napi_get_element(env, outs, i, &t);
    jobs[i].w = (const float*)c.typed(w, napi_float32_array, 0, "Float32Arrays", &jobs[i].length);
    jobs[i].trits = (int8_t*)c.typed(t, napi_int8_array, jobs[i].length, "Int8Arrays", nullptr);
    if (!c.ok()) return nullptr;
  }
  const Kernels* k = c.state().kernels;
  c.state().pool->run(n, [&](int64_t i, int) {
    jobs[(size_t)i].scale = k->quantize_weights(jobs[(size_t)i].w, jobs[(size_t)i].length, jobs[(size_t)i].trits);
  });
  napi_value result;
  napi_create_array_with_length(env, n, &result);
  for (uint32_t i = 0; i < n; i += 1) napi_set_element(env, result, i, number_value(env, jobs[i].scale));
  return result;
}

/** quantizeRows(x, T, C, codes, scale) -> first bad row or -1 */
napi_value QuantizeRows(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  c.skip();
  const int64_t T = c.size(), C = c.size();
  int8_t* codes = c.bytes(T * C);
  float* scale = c.floats(T);
  c.back(0);
  const float* x = c.floats(T * C);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  std::atomic<int64_t> bad{INT64_MAX};
  over_rows(s, T, [&](int64_t begin, int64_t end, int) {
    const int64_t at = s.kernels->quantize_rows(x, C, begin, end, codes, scale);
    if (at < 0) return;
    for (int64_t seen = bad.load(); at < seen && !bad.compare_exchange_weak(seen, at);) {
    }
  });
  return number_value(env, bad.load() == INT64_MAX ? -1.0 : (double)bad.load());
}

/** bitLinearForward(codes, scale, trits, weightScale, T, R, C, out) */
napi_value BitLinearForward(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  for (int i = 0; i < 3; i += 1) c.skip();
  BitForward a;
  a.weight_scale = c.f32();
  a.T = c.size(), a.R = c.size(), a.C = c.size();
  a.out = c.floats(a.T * a.R);
  c.back(0);
  a.codes = c.bytes(a.T * a.C);
  a.scale = c.floats(a.T);
  a.trits = c.bytes(a.R * a.C);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  s.pool->run(a.items(), [&](int64_t i, int) { s.kernels->bit_forward(a, i); });
  return nullptr;
}

/** bitLinearBackwardInput(dy, trits, weightScale, T, R, C, dx) */
napi_value BitLinearBackwardInput(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  c.skip(), c.skip();
  BackwardInput a;
  a.w = nullptr;
  a.weight_scale = c.f32();
  a.T = c.size(), a.R = c.size(), a.C = c.size();
  a.dx = c.floats(a.T * a.C);
  c.back(0);
  a.dy = c.floats(a.T * a.R);
  a.trits = c.bytes(a.R * a.C);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  s.pool->run(a.items(), [&](int64_t i, int) { s.kernels->backward_input(a, i); });
  return nullptr;
}

/** bitLinearBackwardWeight(dy, codes, scale, T, R, C, dWeight) */
napi_value BitLinearBackwardWeight(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  for (int i = 0; i < 3; i += 1) c.skip();
  BackwardWeight a;
  a.T = c.size(), a.R = c.size(), a.C = c.size();
  a.dw = c.floats(a.R * a.C);
  c.back(0);
  a.dy = c.floats(a.T * a.R);
  const int8_t* codes = c.bytes(a.T * a.C);
  const float* scale = c.floats(a.T);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  if ((int64_t)s.dequantized.size() < a.T * a.C) s.dequantized.resize((size_t)(a.T * a.C));
  float* x = s.dequantized.data();
  a.x = x;
  over_rows(s, a.T, [&](int64_t begin, int64_t end, int) {
    s.kernels->dequantize_rows(codes, scale, a.C, begin, end, x);
  });
  a.choose_columns(s.pool->threads());
  s.pool->run(a.items(), [&](int64_t i, int) { s.kernels->backward_weight(a, i); });
  return nullptr;
}

/** denseForward(x, w, T, R, C, out) */
napi_value DenseForwardCall(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  c.skip(), c.skip();
  DenseForward a;
  a.T = c.size(), a.R = c.size(), a.C = c.size();
  a.out = c.floats(a.T * a.R);
  c.back(0);
  a.x = c.floats(a.T * a.C);
  a.w = c.floats(a.R * a.C);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  s.pool->run(a.items(), [&](int64_t i, int) { s.kernels->dense_forward(a, i); });
  return nullptr;
}

/** denseBackwardInput(dy, w, T, R, C, dx) */
napi_value DenseBackwardInput(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  c.skip(), c.skip();
  BackwardInput a;
  a.trits = nullptr;
  a.weight_scale = 1;
  a.T = c.size(), a.R = c.size(), a.C = c.size();
  a.dx = c.floats(a.T * a.C);
  c.back(0);
  a.dy = c.floats(a.T * a.R);
  a.w = c.floats(a.R * a.C);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  s.pool->run(a.items(), [&](int64_t i, int) { s.kernels->backward_input(a, i); });
  return nullptr;
}

/** denseBackwardWeight(dy, x, T, R, C, dWeight) */
napi_value DenseBackwardWeight(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  c.skip(), c.skip();
  BackwardWeight a;
  a.T = c.size(), a.R = c.size(), a.C = c.size();
  a.dw = c.floats(a.R * a.C);
  c.back(0);
  a.dy = c.floats(a.T * a.R);
  a.x = c.floats(a.T * a.C);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  a.choose_columns(s.pool->threads());
  s.pool->run(a.items(), [&](int64_t i, int) { s.kernels->backward_weight(a, i); });
  return nullptr;
}

/** rmsNormForward(x, weight, eps, T, C, r, out) */
napi_value RmsNormForward(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  c.skip(), c.skip();
  Norm a = {};
  a.eps = c.f32();
  a.T = c.size(), a.C = c.size();
  a.r = c.floats(a.T);
  a.out = c.floats(a.T * a.C);
  c.back(0);
  a.x = c.floats(a.T * a.C);
  a.weight = c.floats(a.C);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  over_rows(s, a.T, [&](int64_t begin, int64_t end, int) { s.kernels->norm_forward(a, begin, end); });
  return nullptr;
}

/** rmsNormBackward(x, weight, r, dy, T, C, dx, dWeight) */
napi_value RmsNormBackward(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  for (int i = 0; i < 4; i += 1) c.skip();
  Norm a = {};
  a.T = c.size(), a.C = c.size();
  a.dx = c.floats(a.T * a.C);
  a.dweight = c.floats(a.C);
  c.back(0);
  a.x = c.floats(a.T * a.C);
  a.weight = c.floats(a.C);
  a.r = c.floats(a.T);
  a.dy = c.floats(a.T * a.C);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  over_rows(s, a.T, [&](int64_t begin, int64_t end, int thread) {
    s.kernels->norm_backward_rows(a, begin, end, s.scratch_of(thread, a.C));
  });
  constexpr int64_t kColumns = 64;
  s.pool->run((a.C + kColumns - 1) / kColumns, [&](int64_t i, int) {
    s.kernels->norm_backward_weight(a, i * kColumns, (i + 1) * kColumns < a.C ? (i + 1) * kColumns : a.C);
  });
  return nullptr;
}

/** rope(x, positions, cos, sin, T, H, D, direction) */
napi_value Rope(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  for (int i = 0; i < 4; i += 1) c.skip();
  const int64_t T = c.size(), H = c.size(), D = c.size();
  const float direction = c.f32();
  c.back(0);
  float* x = c.floats(T * H * D);
  const int32_t* positions = c.ints(T);
  int64_t table = 0;
  const float* cos = c.floats(0, &table);
  const float* sin = c.floats(table);
  if (!c.ok()) return nullptr;
  for (int64_t t = 0; t < T; t += 1)
    if (positions[t] < 0 || ((int64_t)positions[t] + 1) * (D / 2) > table) return c.fail("position past the table"), nullptr;
  State& s = c.state();
  over_rows(s, T, [&](int64_t begin, int64_t end, int) {
    s.kernels->rope(x, positions, cos, sin, H, D, direction, begin, end);
  });
  return nullptr;
}

/** Checks starts (S + 1): 0 first, never falling. Returns the number of rows, or -1. */
int64_t rows_of(Call& c, const int32_t* starts, int64_t n) {
  if (!c.ok()) return -1;
  if (n < 1 || starts[0] != 0) return c.fail("starts must begin with 0"), -1;
  for (int64_t i = 1; i < n; i += 1)
    if (starts[i] < starts[i - 1]) return c.fail("starts must not fall"), -1;
  return starts[n - 1];
}

/** attentionForward(q, k, v, starts, heads, kvHeads, D, scale, out) */
napi_value AttentionForward(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  for (int i = 0; i < 3; i += 1) c.skip();
  int64_t n = 0;
  const int32_t* starts = c.ints(1, &n);
  Attention a = {};
  a.heads = c.size(), a.kv_heads = c.size(), a.D = c.size();
  a.scale = c.f32();
  const int64_t T = rows_of(c, starts, n);
  a.out = c.floats(T * a.heads * a.D);
  c.back(0);
  a.q = c.floats(T * a.heads * a.D);
  a.k = c.floats(T * a.kv_heads * a.D);
  a.v = c.floats(T * a.kv_heads * a.D);
  if (!c.ok()) return nullptr;
  if (a.kv_heads < 1 || a.heads % a.kv_heads) return c.fail("heads must be a multiple of kvHeads"), nullptr;
  std::vector<AttentionItem> items;
  constexpr int64_t kBlockRows = 32;
  int64_t longest = 0;
  for (int64_t i = 0; i + 1 < n; i += 1) {
    longest = starts[i + 1] - starts[i] > longest ? starts[i + 1] - starts[i] : longest;
    for (int64_t h = 0; h < a.heads; h += 1)
      for (int64_t t = starts[i]; t < starts[i + 1]; t += kBlockRows)
        items.push_back({starts[i], t, t + kBlockRows < starts[i + 1] ? t + kBlockRows : starts[i + 1], h});
  }
  State& s = c.state();
  const int64_t floats = s.kernels->attention_scratch(longest);
  s.pool->run((int64_t)items.size(), [&](int64_t i, int thread) {
    s.kernels->attention_forward(a, items[(size_t)i], s.scratch_of(thread, floats));
  });
  return nullptr;
}

/** attentionBackward(q, k, v, out, dOut, starts, heads, kvHeads, D, scale, dq, dk, dv) */
napi_value AttentionBackward(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  for (int i = 0; i < 5; i += 1) c.skip();
  int64_t n = 0;
  const int32_t* starts = c.ints(1, &n);
  Attention a = {};
  a.heads = c.size(), a.kv_heads = c.size(), a.D = c.size();
  a.scale = c.f32();
  const int64_t T = rows_of(c, starts, n);
  const int64_t wide = T * a.heads * a.D, narrow = T * a.kv_heads * a.D;
  a.dq = c.floats(wide);
  a.dk = c.floats(narrow);
  a.dv = c.floats(narrow);
  c.back(0);
  a.q = c.floats(wide);
  a.k = c.floats(narrow);
  a.v = c.floats(narrow);
  a.out = c.floats(wide);
  a.dout = c.floats(wide);
  if (!c.ok()) return nullptr;
  if (a.kv_heads < 1 || a.heads % a.kv_heads) return c.fail("heads must be a multiple of kvHeads"), nullptr;
  std::vector<AttentionItem> items;
  int64_t longest = 0;
  for (int64_t i = 0; i + 1 < n; i += 1) {
    longest = starts[i + 1] - starts[i] > longest ? starts[i + 1] - starts[i] : longest;
    for (int64_t g = 0; g < a.kv_heads; g += 1) items.push_back({starts[i], starts[i], starts[i + 1], g});
  }
  State& s = c.state();
  const int64_t floats = s.kernels->attention_scratch(longest);
  s.pool->run((int64_t)items.size(), [&](int64_t i, int thread) {
    s.kernels->attention_backward(a, items[(size_t)i], s.scratch_of(thread, floats));
  });
  return nullptr;
}

/** gatedActivationForward(fn, gate, up, n, out); fn 0 relu2, 1 silu */
napi_value GateForward(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  const Gate fn = c.size() == 0 ? Gate::relu2 : Gate::silu;
  c.skip(), c.skip();
  const int64_t n = c.size();
  float* out = c.floats(n);
  c.back(1);
  const float* gate = c.floats(n);
  const float* up = c.floats(n);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  over_elements(s, n, [&](int64_t begin, int64_t end) {
    s.kernels->gate_forward(fn, gate + begin, up + begin, end - begin, out + begin);
  });
  return nullptr;
}

/** gatedActivationBackward(fn, gate, up, dOut, n, dGate, dUp) */
napi_value GateBackward(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  const Gate fn = c.size() == 0 ? Gate::relu2 : Gate::silu;
  for (int i = 0; i < 3; i += 1) c.skip();
  const int64_t n = c.size();
  float* dgate = c.floats(n);
  float* dup = c.floats(n);
  c.back(1);
  const float* gate = c.floats(n);
  const float* up = c.floats(n);
  const float* dout = c.floats(n);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  over_elements(s, n, [&](int64_t begin, int64_t end) {
    s.kernels->gate_backward(fn, gate + begin, up + begin, dout + begin, end - begin, dgate + begin, dup + begin);
  });
  return nullptr;
}

/** crossEntropyInPlace(logits, targets, gradScale, T, V, sums, margins) */
napi_value CrossEntropy(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  c.skip(), c.skip();
  const float grad_scale = c.f32();
  const int64_t T = c.size(), V = c.size();
  float* sums = c.floats(T);
  float* margins = c.floats(T);
  c.back(0);
  float* logits = c.floats(T * V);
  const int32_t* targets = c.ints(T);
  if (!c.ok()) return nullptr;
  for (int64_t t = 0; t < T; t += 1)
    if (targets[t] >= V || targets[t] < -1) return c.fail("target outside the vocabulary"), nullptr;
  State& s = c.state();
  over_rows(s, T, [&](int64_t begin, int64_t end, int) {
    s.kernels->cross_entropy(logits, targets, grad_scale, V, begin, end, sums, margins);
  });
  return nullptr;
}

/** addInPlace(x, y, n) */
napi_value Add(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  c.skip(), c.skip();
  const int64_t n = c.size();
  c.back(0);
  float* x = c.floats(n);
  const float* y = c.floats(n);
  if (!c.ok()) return nullptr;
  State& s = c.state();
  over_elements(s, n, [&](int64_t begin, int64_t end) { s.kernels->add(x + begin, y + begin, end - begin); });
  return nullptr;
}

/** sgdUpdate(p, g, lr, keep, gradScale) */
napi_value SgdUpdate(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  int64_t n = 0;
  Sgd a;
  a.p = c.floats(0, &n);
  a.g = c.floats(n);
  a.lr = c.f32(), a.keep = c.f32(), a.grad_scale = c.f32();
  if (!c.ok()) return nullptr;
  State& s = c.state();
  over_elements(s, n, [&](int64_t begin, int64_t end) { s.kernels->sgd(a, begin, end); });
  return nullptr;
}

/** adamWUpdate(p, g, m, v, beta1, beta2, rest1, rest2, eps, keep, stepSize, secondScale, gradScale) */
napi_value AdamWUpdate(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  int64_t n = 0;
  AdamW a;
  a.p = c.floats(0, &n);
  a.g = c.floats(n);
  a.m = c.floats(n);
  a.v = c.floats(n);
  a.beta1 = c.f32(), a.beta2 = c.f32(), a.rest1 = c.f32(), a.rest2 = c.f32(), a.eps = c.f32(), a.keep = c.f32();
  a.step_size = c.f32(), a.second_scale = c.f32(), a.grad_scale = c.f32();
  if (!c.ok()) return nullptr;
  State& s = c.state();
  over_elements(s, n, [&](int64_t begin, int64_t end) { s.kernels->adamw(a, begin, end); });
  return nullptr;
}

/** sumSquares(x) -> number */
napi_value SumSquares(napi_env env, napi_callback_info info) {
  Call c(env, info);
  if (!c.configured()) return nullptr;
  int64_t n = 0;
  const float* x = c.floats(0, &n);
  if (!c.ok()) return nullptr;
  return number_value(env, c.state().kernels->sum_squares(x, n));
}

napi_value Init(napi_env env, napi_value exports) {
  State* state = new State();
  napi_set_instance_data(env, state, [](napi_env, void* data, void*) { delete (State*)data; }, nullptr);
  const struct {
    const char* name;
    napi_callback call;
  } functions[] = {
      {"configure", Configure},
      {"isas", Isas},
      {"quantizeMatrices", QuantizeMatrices},
      {"quantizeRows", QuantizeRows},
      {"bitLinearForward", BitLinearForward},
      {"bitLinearBackwardInput", BitLinearBackwardInput},
      {"bitLinearBackwardWeight", BitLinearBackwardWeight},
      {"denseForward", DenseForwardCall},
      {"denseBackwardInput", DenseBackwardInput},
      {"denseBackwardWeight", DenseBackwardWeight},
      {"rmsNormForward", RmsNormForward},
      {"rmsNormBackward", RmsNormBackward},
      {"rope", Rope},
      {"attentionForward", AttentionForward},
      {"attentionBackward", AttentionBackward},
      {"gatedActivationForward", GateForward},
      {"gatedActivationBackward", GateBackward},
      {"crossEntropyInPlace", CrossEntropy},
      {"addInPlace", Add},
      {"sgdUpdate", SgdUpdate},
      {"adamWUpdate", AdamWUpdate},
      {"sumSquares", SumSquares},
  };
  for (const auto& f : functions) {
    napi_value function;
    napi_create_function(env, f.name, NAPI_AUTO_LENGTH, f.call, nullptr, &function);
    napi_set_named_property(env, exports, f.name, function);
  }
  return exports;
}

}  // namespace

NAPI_MODULE(bitnet_train, Init)
