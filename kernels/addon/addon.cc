// Node-API glue: checks arguments, calls the engine, turns results into JavaScript values. No arithmetic.
//
//   isas() -> {usable: string[], built: string[]}
//   selfTest() -> "ok" or what is wrong
//   load({words, blobs, isa, threads, fixed, prefetch}) -> handle   throws Error with .status, .op
//                                      threads: at most; fixed: always so many, else as many of them as help
//                                      prefetch: bytes, or 0 for the usual distance, which settle may change
//   settle(h) -> Promise<number>       moves the matrices to huge pages, in place; bytes that are there. Then finds the
//                                      prefetch distances at which this machine streams them fastest
//   createSequence(h) / freeSequence(h, id) / sequenceLength(h, id) / rewindLimit(h, id) / truncate(h, id, n) / fork(h, id, n)
//   step(h, tokens, sequences, positions, outputRows, trace, logits, tritCounts, topIds, topLogits, masses) -> Promise<{status, op, text}>
//   useThreads(h, n)                   steps run on n threads from now on; 0: as many as help
//   info(h) -> {isa, threads, used, found, prefetch, counters, memory}
//   dispose(h)
//   expectHugePages(Uint8Array) -> number   for memory that is about to be filled: where its first huge page begins
//   quantizeRows(bytes, dtype, rows, columns, codes, rowScale, threads) -> Promise<number>   first bad row, or -1
//   repackGrouped(bytes, source, rows, columns, panels, scales) -> Promise<number>   columns of a group; see RepackGrouped
//   mastersToRowquad(bytes, dtype, rows, columns, out) -> Promise<number>   the scale; NaN where one is not finite
//   measure(kind, isa, threads, bytes) -> Promise<number>    'read': bytes/s, 'macs': int8 multiply-adds/s
//
// The blobs are used where they lie: the handle keeps the typed arrays alive, and the caller must not change them.
#define NAPI_VERSION 8
#include <node_api.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "../include/engine.h"
#include "../include/isa.h"
#include "../include/grouped_repack.h"
#include "../include/masters.h"
#include "../include/pool.h"
#include "../include/selftest.h"

using namespace bitnet;

namespace {

constexpr int kMaxThreads = 256;

// Rows and columns of matrices that are made here from what a file holds.
constexpr int64_t kMostSide = 1 << 24;

// Until settle has measured; also what small models keep, which live in the caches.
constexpr int64_t kPrefetch = 4096;

struct Handle {
  Engine* engine = nullptr;
  bool tune = false;  // the caller left the prefetch distance open
  std::unique_ptr<Pool> pool;
  napi_ref kept = nullptr;  // the typed arrays behind the blobs
  bool busy = false;
  bool disposed = false;

  void release(napi_env env) {
    pool.reset();
    engine_free(engine);
    engine = nullptr;
    if (kept) napi_delete_reference(env, kept);
    kept = nullptr;
  }
};

// Marks our externals, so that a foreign one is refused.
constexpr napi_type_tag kHandleTag = {0x6269746e65743135, 0x38636275656e6769};

napi_value undefined(napi_env env) {
  napi_value v;
  napi_get_undefined(env, &v);
  return v;
}
napi_value number(napi_env env, double n) {
  napi_value v;
  napi_create_double(env, n, &v);
  return v;
}
napi_value boolean(napi_env env, bool b) {
  napi_value v;
  napi_get_boolean(env, b, &v);
  return v;
}
napi_value string(napi_env env, const char* s) {
  napi_value v;
  napi_create_string_utf8(env, s, NAPI_AUTO_LENGTH, &v);
  return v;
}
void set(napi_env env, napi_value object, const char* name, napi_value v) { napi_set_named_property(env, object, name, v); }

napi_value result_of(napi_env env, const Failure& f) {
  napi_value r;
  napi_create_object(env, &r);
  set(env, r, "status", number(env, (int32_t)f.status));
  set(env, r, "op", number(env, f.op));
  set(env, r, "text", string(env, f.text));
  return r;
}
napi_value throw_failure(napi_env env, const Failure& f) {
  napi_value error;
  napi_create_error(env, nullptr, string(env, f.text), &error);
  set(env, error, "status", number(env, (int32_t)f.status));
  set(env, error, "op", number(env, f.op));
  napi_throw(env, error);
  return nullptr;
}
napi_value throw_type(napi_env env, const char* text) {
  napi_throw_type_error(env, nullptr, text);
  return nullptr;
}

struct Bytes {
  void* data = nullptr;
  size_t length = 0;  // elements
  size_t bytes = 0;
  napi_typedarray_type type;
};

bool typed_array(napi_env env, napi_value v, Bytes* out) {
  bool is = false;
  if (napi_is_typedarray(env, v, &is) != napi_ok || !is) return false;
  napi_value buffer;
  size_t offset;
  if (napi_get_typedarray_info(env, v, &out->type, &out->length, &out->data, &buffer, &offset) != napi_ok) return false;
  static const size_t sizes[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
  if ((size_t)out->type >= sizeof sizes / sizeof *sizes) return false;
  out->bytes = out->length * sizes[out->type];
  return true;
}
bool typed_array(napi_env env, napi_value v, napi_typedarray_type type, Bytes* out) {
  return typed_array(env, v, out) && out->type == type;
}

template <size_t N>
bool arguments(napi_env env, napi_callback_info info, napi_value (&argv)[N]) {
  size_t n = N;
  return napi_get_cb_info(env, info, &n, argv, nullptr, nullptr) == napi_ok && n == N;
}

Handle* handle_of(napi_env env, napi_value v) {
  napi_valuetype type;
  bool ours = false;
  void* p = nullptr;
  if (napi_typeof(env, v, &type) != napi_ok || type != napi_external) return nullptr;
  if (napi_check_object_type_tag(env, v, &kHandleTag, &ours) != napi_ok || !ours) return nullptr;
  napi_get_value_external(env, v, &p);
  return (Handle*)p;
}
/** Throws and returns null when the handle is not usable now. */
Handle* ready(napi_env env, napi_value v) {
  Handle* h = handle_of(env, v);
  if (!h || h->disposed) return throw_type(env, "not a loaded program"), nullptr;
  if (h->busy) return napi_throw_error(env, nullptr, "a step of this program is running"), nullptr;
  return h;
}

napi_value names(napi_env env, const char* const* list, int n) {
  napi_value array;
  napi_create_array(env, &array);
  for (int i = 0; i < n; i += 1) napi_set_element(env, array, (uint32_t)i, string(env, list[i]));
  return array;
}

napi_value Isas(napi_env env, napi_callback_info) {
  const Kernels* tables[kMaxIsas];
  const int n = usable_isas(tables);
  const char* usable[kMaxIsas];
  for (int i = 0; i < n; i += 1) usable[i] = tables[i]->isa;
  int built = 0;
  while (built_isas()[built]) built += 1;
  napi_value r;
  napi_create_object(env, &r);
  set(env, r, "usable", names(env, usable, n));
  set(env, r, "built", names(env, built_isas(), built));
  return r;
}

napi_value SelfTest(napi_env env, napi_callback_info) {
  const Kernels* tables[kMaxIsas];
  const int n = usable_isas(tables);
  for (int i = 0; i < n; i += 1)
    if (const char* text = selftest(*tables[i], 1)) return string(env, text);
  return string(env, "ok");
}

std::string text_of(napi_env env, napi_value v) {
  char text[64] = {};
  size_t n = 0;
  napi_get_value_string_utf8(env, v, text, sizeof text, &n);
  return std::string(text, n);
}

napi_value property(napi_env env, napi_value object, const char* name) {
  napi_value v = nullptr;
  napi_get_named_property(env, object, name, &v);
  return v;
}

void finalize(napi_env env, void* data, void*) {
  Handle* h = (Handle*)data;
  // Only when the process ends in the middle of a step: its memory goes with the process.
  if (h->busy) return;
  h->release(env);
  delete h;
}

napi_value Load(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  if (!arguments(env, info, argv)) return throw_type(env, "load takes one object");
  const napi_value list = property(env, argv[0], "blobs");
  Bytes words, edges;
  bool is_array = false;
  uint32_t count = 0;
  int32_t threads = 0, prefetch = 0;
  bool fixed = true;
  if (!typed_array(env, property(env, argv[0], "words"), napi_int32_array, &words) ||
      !typed_array(env, property(env, argv[0], "edges"), napi_int32_array, &edges) ||
      napi_is_array(env, list, &is_array) != napi_ok || !is_array || napi_get_array_length(env, list, &count) != napi_ok ||
      napi_get_value_int32(env, property(env, argv[0], "threads"), &threads) != napi_ok ||
      napi_get_value_bool(env, property(env, argv[0], "fixed"), &fixed) != napi_ok ||
      napi_get_value_int32(env, property(env, argv[0], "prefetch"), &prefetch) != napi_ok)
    return throw_type(env, "load takes {words: Int32Array, blobs: TypedArray[], isa, threads, fixed, edges: Int32Array, prefetch}");
  if (threads < 1 || threads > kMaxThreads) return throw_type(env, "threads must be in 1..256");
  const std::string isa = text_of(env, property(env, argv[0], "isa"));
  const Kernels* kernels = find_isa(isa.c_str());
  if (!kernels) return throw_type(env, ("instruction set '" + isa + "' is not usable here").c_str());

  std::vector<Blob> blobs(count);
  napi_value kept;
  napi_create_array_with_length(env, count, &kept);
  for (uint32_t i = 0; i < count; i += 1) {
    napi_value v;
    Bytes b;
    if (napi_get_element(env, list, i, &v) != napi_ok || !typed_array(env, v, &b)) return throw_type(env, "blobs must be typed arrays");
    napi_set_element(env, kept, i, v);
    blobs[i] = Blob{b.data, b.bytes};
  }

  std::unique_ptr<Handle> h(new Handle);
  Failure failure;
  try {
    h->engine = engine_create((const int32_t*)words.data, words.length, blobs.data(), count, kernels, threads, prefetch > 0 ? prefetch : kPrefetch, &failure);
    h->tune = prefetch <= 0;
    if (!h->engine) return throw_failure(env, failure);
    const int32_t* edge = (const int32_t*)edges.data;
    h->pool.reset(new Pool(threads, edges.length ? std::vector<int>(edge, edge + edges.length) : std::vector<int>()));
    h->pool->use(fixed ? threads : 0);
  } catch (const std::exception& e) {
    h->release(env);
    napi_throw_error(env, nullptr, (std::string("cannot start threads: ") + e.what()).c_str());
    return nullptr;
  }
  napi_create_reference(env, kept, 1, &h->kept);
  napi_value external;
  if (napi_create_external(env, h.get(), finalize, nullptr, &external) != napi_ok) {
    h->release(env);
    return throw_type(env, "cannot make a handle");
  }
  h.release();
  napi_type_tag_object(env, external, &kHandleTag);
  return external;
}

napi_value CreateSequence(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  Handle* h = arguments(env, info, argv) ? ready(env, argv[0]) : nullptr;
  return h ? number(env, engine_sequence_create(h->engine)) : nullptr;
}

bool two(napi_env env, napi_callback_info info, Handle** h, int32_t* id) {
  napi_value argv[2];
  if (!arguments(env, info, argv) || napi_get_value_int32(env, argv[1], id) != napi_ok) return throw_type(env, "takes (handle, sequence)"), false;
  *h = ready(env, argv[0]);
  return *h != nullptr;
}
bool three(napi_env env, napi_callback_info info, Handle** h, int32_t* id, int32_t* n) {
  napi_value argv[3];
  if (!arguments(env, info, argv) || napi_get_value_int32(env, argv[1], id) != napi_ok ||
      napi_get_value_int32(env, argv[2], n) != napi_ok)
    return throw_type(env, "takes (handle, sequence, length)"), false;
  *h = ready(env, argv[0]);
  return *h != nullptr;
}

napi_value FreeSequence(napi_env env, napi_callback_info info) {
  Handle* h;
  int32_t id;
  if (!two(env, info, &h, &id)) return nullptr;
  engine_sequence_free(h->engine, id);
  return undefined(env);
}
napi_value SequenceLength(napi_env env, napi_callback_info info) {
  Handle* h;
  int32_t id;
  return two(env, info, &h, &id) ? number(env, engine_sequence_length(h->engine, id)) : nullptr;
}
napi_value RewindLimit(napi_env env, napi_callback_info info) {
  Handle* h;
  int32_t id;
  return two(env, info, &h, &id) ? number(env, engine_rewind_limit(h->engine, id)) : nullptr;
}
napi_value Truncate(napi_env env, napi_callback_info info) {
  Handle* h;
  int32_t id, length;
  if (!three(env, info, &h, &id, &length)) return nullptr;
  Failure f;
  return engine_truncate(h->engine, id, length, &f) ? undefined(env) : throw_failure(env, f);
}
napi_value Fork(napi_env env, napi_callback_info info) {
  Handle* h;
  int32_t id, length;
  if (!three(env, info, &h, &id, &length)) return nullptr;
  Failure f;
  const int32_t made = engine_fork(h->engine, id, length, &f);
  return made >= 0 ? number(env, made) : throw_failure(env, f);
}

// ---------------------------------------------------------------------------------------------------------------------
// Work on a thread of the runtime

struct Job {
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  napi_ref kept = nullptr;
};

/** A promise for what `complete` resolves it to; `kept` are the values whose memory the job uses until then. */
template <class J>
napi_value queue(napi_env env, std::unique_ptr<J> job, const char* name, napi_async_execute_callback execute,
                 napi_async_complete_callback complete, std::initializer_list<napi_value> kept) {
  napi_value list, promise;
  napi_create_array_with_length(env, kept.size(), &list);
  uint32_t i = 0;
  for (napi_value value : kept) napi_set_element(env, list, i++, value);
  napi_create_reference(env, list, 1, &job->kept);
  napi_create_promise(env, &job->deferred, &promise);
  if (napi_create_async_work(env, nullptr, string(env, name), execute, complete, job.get(), &job->work) != napi_ok ||
      napi_queue_async_work(env, job->work) != napi_ok) {
    napi_delete_reference(env, job->kept);
    napi_throw_error(env, nullptr, "cannot queue the work");
    return nullptr;
  }
  job.release();
  return promise;
}

void resolve(napi_env env, const Job& job, napi_value result) {
  napi_resolve_deferred(env, job.deferred, result);
  napi_delete_reference(env, job.kept);
  napi_delete_async_work(env, job.work);
}

struct SettleJob : Job {
  Handle* handle;
  uint64_t bytes = 0;
};

/**
 * The best distance differs by machine and kernel: 4 KiB everywhere on Sapphire Rapids; on Zen 3 2 KiB for ternary
 * weights, 1 KiB for an int8 head, which reads a third slower at 4. Each is timed on pieces of the largest matrices,
 * all of them together well above a cache; about ten milliseconds.
 */
void tune_prefetch(Engine* engine, Stream kind) {
  constexpr int64_t kDistances[] = {0, 256, 1024, 2048, 4096, 8192};
  constexpr uint64_t kCount = std::size(kDistances), kMostRounds = 12, kLeastRounds = 3;
  std::vector<double> took[kCount];
  for (uint64_t piece = 0; piece < kMostRounds * kCount; piece += 1) {
    const auto start = std::chrono::steady_clock::now();
    if (engine_stream(engine, kind, piece, kDistances[piece % kCount]) == 0) break;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    took[piece % kCount].push_back(seconds.count());
  }
  if (took[kCount - 1].size() < kLeastRounds) return;
  uint64_t best = 0;
  double least = 0;
  for (uint64_t i = 0; i < kCount; i += 1) {
    // The median: a minimum may be a piece that another core had just brought into the cache.
    std::nth_element(took[i].begin(), took[i].begin() + (ptrdiff_t)(took[i].size() / 2), took[i].end());
    const double median = took[i][took[i].size() / 2];
    if (i == 0 || median < least) least = median, best = i;
  }
  engine_set_prefetch(engine, kind, kDistances[best]);
}

void settle_execute(napi_env, void* data) {
  SettleJob* job = (SettleJob*)data;
  Engine* engine = job->handle->engine;
  Blob b;
  for (uint32_t i = 0; engine_matrix(engine, i, &b); i += 1) job->bytes += host_prefer_huge_pages(b.data, b.size);
  if (!job->handle->tune) return;
  for (int kind = 0; kind < kStreams; kind += 1) tune_prefetch(engine, (Stream)kind);
}

void settle_complete(napi_env env, napi_status, void* data) {
  std::unique_ptr<SettleJob> job((SettleJob*)data);
  job->handle->busy = false;
  if (job->handle->disposed) job->handle->release(env);
  resolve(env, *job, number(env, (double)job->bytes));
}

napi_value Settle(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  Handle* h = arguments(env, info, argv) ? ready(env, argv[0]) : nullptr;
  if (!h) return nullptr;
  std::unique_ptr<SettleJob> job(new SettleJob);
  job->handle = h;
  const napi_value promise = queue(env, std::move(job), "bitnet:settle", settle_execute, settle_complete, {argv[0]});
  h->busy = promise != nullptr;
  return promise;
}

// A step below this many multiply-adds is over before a second thread has woken up.
constexpr int64_t kWorthThreads = 4'000'000;

struct StepJob : Job {
  Handle* handle;
  std::vector<int32_t> tokens, sequences, positions, output_rows;
  Step step;
  Failure failure;
};

void step_execute(napi_env, void* data) {
  StepJob* job = (StepJob*)data;
  Engine* engine = job->handle->engine;
  if (!engine_begin(engine, job->step, &job->failure)) return;
  job->handle->pool->run(engine, engine_macs_per_row(engine) * job->step.rows < kWorthThreads);
  engine_end(engine, &job->failure);
}

void step_complete(napi_env env, napi_status status, void* data) {
  std::unique_ptr<StepJob> job((StepJob*)data);
  Handle* h = job->handle;
  h->busy = false;
  if (h->disposed) h->release(env);
  if (status != napi_ok && job->failure.status == Status::ok) {
    job->failure.status = Status::bad_step;
    strcpy(job->failure.text, "the step was cancelled by the runtime");
  }
  resolve(env, *job, result_of(env, job->failure));
}

napi_value RunStep(napi_env env, napi_callback_info info) {
  napi_value argv[11];
  if (!arguments(env, info, argv)) return throw_type(env, "step takes 11 arguments");
  Handle* h = ready(env, argv[0]);
  if (!h) return nullptr;
  Bytes tokens, sequences, positions, rows, logits, trits, top_ids, top_logits, masses;
  bool trace;
  if (!typed_array(env, argv[1], napi_int32_array, &tokens) || !typed_array(env, argv[2], napi_int32_array, &sequences) ||
      !typed_array(env, argv[3], napi_int32_array, &positions) || !typed_array(env, argv[4], napi_int32_array, &rows) ||
      napi_get_value_bool(env, argv[5], &trace) != napi_ok || !typed_array(env, argv[6], napi_float32_array, &logits) ||
      !typed_array(env, argv[7], napi_int32_array, &trits) || !typed_array(env, argv[8], napi_int32_array, &top_ids) ||
      !typed_array(env, argv[9], napi_float32_array, &top_logits) || !typed_array(env, argv[10], napi_float64_array, &masses))
    return throw_type(env, "step takes (handle, Int32Array x 4, boolean, Float32Array, Int32Array x 2, Float32Array, Float64Array)");
  if (sequences.length != tokens.length || positions.length != tokens.length || tokens.length > INT32_MAX || rows.length > tokens.length)
    return throw_type(env, "step: tokens, sequences and positions must be equally long");
  const EngineSizes sizes = engine_sizes(h->engine);
  const bool bare = logits.length == 0, tops = masses.length > 0;
  if (!bare && logits.length != rows.length * (size_t)sizes.vocab)
    return throw_type(env, "step: logits must hold outputs * vocab floats, or none");
  if ((tops && masses.length != rows.length) || top_ids.length != top_logits.length || (!tops && top_ids.length > 0) ||
      (tops && (top_ids.length % rows.length != 0 || top_ids.length / rows.length > INT32_MAX)))
    return throw_type(env, "step: topIds and topLogits must hold equally many for each of the outputs, masses one");
  if (trits.length != (trace ? tokens.length * (size_t)sizes.trace_points * 3 : 0)) return throw_type(env, "step: tritCounts has the wrong size");

  std::unique_ptr<StepJob> job(new StepJob);
  job->handle = h;
  const auto copy = [](const Bytes& b) {
    const int32_t* p = (const int32_t*)b.data;
    return b.length ? std::vector<int32_t>(p, p + b.length) : std::vector<int32_t>();
  };
  job->tokens = copy(tokens);
  job->sequences = copy(sequences);
  job->positions = copy(positions);
  job->output_rows = copy(rows);
  job->step = Step{(int32_t)tokens.length, job->tokens.data(), job->sequences.data(), job->positions.data(),
                   (int32_t)rows.length, job->output_rows.data(), trace, bare ? nullptr : (float*)logits.data, (int32_t*)trits.data,
                   tops ? (int32_t)(top_ids.length / rows.length) : 0, (int32_t*)top_ids.data, (float*)top_logits.data,
                   (double*)masses.data};
  const napi_value promise =
      queue(env, std::move(job), "bitnet:step", step_execute, step_complete, {argv[0], argv[6], argv[7], argv[8], argv[9], argv[10]});
  h->busy = promise != nullptr;
  return promise;
}

napi_value UseThreads(napi_env env, napi_callback_info info) {
  Handle* h;
  int32_t n = 0;
  if (!two(env, info, &h, &n)) return nullptr;
  if (n < 0 || n > h->pool->threads()) return throw_type(env, "useThreads takes 0 or as many threads as were loaded for");
  h->pool->use(n);
  return undefined(env);
}

napi_value Info(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  Handle* h = arguments(env, info, argv) ? ready(env, argv[0]) : nullptr;
  if (!h) return nullptr;
  const Counters c = engine_counters(h->engine);
  const Memory m = engine_memory(h->engine);
  napi_value r, counters, memory;
  napi_create_object(env, &r);
  napi_create_object(env, &counters);
  napi_create_object(env, &memory);
  set(env, counters, "ternaryVector", number(env, (double)c.ternary_vector));
  set(env, counters, "ternaryMatrix", number(env, (double)c.ternary_matrix));
  set(env, counters, "int8", number(env, (double)c.int8));
  set(env, counters, "dense", number(env, (double)c.dense));
  set(env, counters, "attention", number(env, (double)c.attention));
  set(env, counters, "groupedVector", number(env, (double)c.grouped_vector));
  set(env, counters, "groupedMatrix", number(env, (double)c.grouped_matrix));
  set(env, counters, "delta", number(env, (double)c.delta));
  set(env, memory, "activations", number(env, (double)m.activations));
  set(env, memory, "kv", number(env, (double)m.kv));
  set(env, memory, "scratch", number(env, (double)m.scratch));
  set(env, memory, "recurrent", number(env, (double)m.recurrent));
  set(env, r, "isa", string(env, engine_sizes(h->engine).isa));
  set(env, r, "threads", number(env, h->pool->threads()));
  napi_value used, found;
  napi_create_object(env, &used);
  napi_create_object(env, &found);
  const struct {
    const char* name;
    StepKind kind;
  } kinds[] = {{"one", StepKind::one}, {"few", StepKind::few}, {"many", StepKind::many}};
  for (const auto& [name, kind] : kinds) {
    set(env, used, name, number(env, h->pool->used(kind)));
    set(env, found, name, boolean(env, h->pool->found(kind)));
  }
  set(env, r, "used", used);
  set(env, r, "found", found);
  napi_value prefetch;
  napi_create_object(env, &prefetch);
  set(env, prefetch, "ternary", number(env, (double)engine_prefetch(h->engine, Stream::ternary)));
  set(env, prefetch, "int8", number(env, (double)engine_prefetch(h->engine, Stream::int8)));
  set(env, prefetch, "dense", number(env, (double)engine_prefetch(h->engine, Stream::dense)));
  set(env, prefetch, "grouped", number(env, (double)engine_prefetch(h->engine, Stream::grouped)));
  set(env, r, "prefetch", prefetch);
  set(env, r, "counters", counters);
  set(env, r, "memory", memory);
  return r;
}

napi_value Dispose(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  Handle* h = arguments(env, info, argv) ? handle_of(env, argv[0]) : nullptr;
  if (!h) return throw_type(env, "not a loaded program");
  if (h->disposed) return undefined(env);
  h->disposed = true;
  if (!h->busy) h->release(env);
  return undefined(env);
}

napi_value ExpectHugePages(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  Bytes bytes;
  if (!arguments(env, info, argv) || !typed_array(env, argv[0], napi_uint8_array, &bytes))
    return throw_type(env, "expectHugePages takes a Uint8Array");
  return number(env, bytes.bytes == 0 ? 0 : (double)host_expect_huge_pages(bytes.data, bytes.bytes));
}

// ---------------------------------------------------------------------------------------------------------------------
// The int8 head: rows of a dense matrix rounded like activations.

struct QuantizeJob : Job {
  const Kernels* kernels;
  const uint8_t* bytes;
  Dense dtype;
  int64_t rows, columns;
  int8_t* codes;
  float* row_scale;
  int threads;
  std::atomic<int64_t> bad{INT64_MAX};
};

void quantize_rows(QuantizeJob* job, int64_t from, int64_t to) {
  const int64_t n = job->columns, size = element_bytes(job->dtype);
  std::vector<float> row((size_t)n);
  std::vector<int8_t> codes((size_t)code_stride(n));
  for (int64_t r = from; r < to; r += 1) {
    job->kernels->embed(job->bytes + r * n * size, job->dtype, n, row.data());
    float scale = 1;
    if (!job->kernels->quantize(row.data(), n, codes.data(), &scale)) {
      int64_t seen = job->bad.load();
      while (r < seen && !job->bad.compare_exchange_weak(seen, r)) {
      }
      return;
    }
    memcpy(job->codes + r * n, codes.data(), (size_t)n);
    job->row_scale[r] = 1.0f / scale;
  }
}

void quantize_execute(napi_env, void* data) {
  QuantizeJob* job = (QuantizeJob*)data;
  std::vector<std::thread> threads;
  const auto share = [&](int t) { return job->rows * t / job->threads; };
  try {
    for (int t = 1; t < job->threads; t += 1) threads.emplace_back(quantize_rows, job, share(t), share(t + 1));
  } catch (const std::system_error&) {
    // Fewer threads than wished: this one does the rest.
  }
  const int started = (int)threads.size() + 1;
  quantize_rows(job, 0, share(1));
  if (started < job->threads) quantize_rows(job, share(started), job->rows);
  for (auto& t : threads) t.join();
}

void quantize_complete(napi_env env, napi_status, void* data) {
  std::unique_ptr<QuantizeJob> job((QuantizeJob*)data);
  const int64_t bad = job->bad.load();
  resolve(env, *job, number(env, bad == INT64_MAX ? -1 : (double)bad));
}

napi_value QuantizeRows(napi_env env, napi_callback_info info) {
  napi_value argv[7];
  if (!arguments(env, info, argv)) return throw_type(env, "quantizeRows takes 7 arguments");
  Bytes bytes, codes, scales;
  int32_t dtype = 0, threads = 0;
  std::unique_ptr<QuantizeJob> job(new QuantizeJob);
  if (!typed_array(env, argv[0], napi_uint8_array, &bytes) || napi_get_value_int32(env, argv[1], &dtype) != napi_ok ||
      napi_get_value_int64(env, argv[2], &job->rows) != napi_ok || napi_get_value_int64(env, argv[3], &job->columns) != napi_ok ||
      !typed_array(env, argv[4], napi_int8_array, &codes) || !typed_array(env, argv[5], napi_float32_array, &scales) ||
      napi_get_value_int32(env, argv[6], &threads) != napi_ok)
    return throw_type(env, "quantizeRows takes (Uint8Array, dtype, rows, columns, Int8Array, Float32Array, threads)");
  if (dtype < 0 || dtype > 2 || job->rows < 1 || job->rows > kMostSide || job->columns < 1 || job->columns > kMostSide ||
      threads < 1 || threads > kMaxThreads)
    return throw_type(env, "quantizeRows: bad argument");
  const uint64_t count = (uint64_t)job->rows * (uint64_t)job->columns;
  if (codes.length != count || bytes.bytes != count * (uint64_t)element_bytes((Dense)dtype) || scales.length != (uint64_t)job->rows)
    return throw_type(env, "quantizeRows: the arrays do not fit rows and columns");
  job->kernels = find_isa("");
  job->bytes = (const uint8_t*)bytes.data;
  job->dtype = (Dense)dtype;
  job->codes = (int8_t*)codes.data;
  job->row_scale = (float*)scales.data;
  job->threads = threads;
  return queue(env, std::move(job), "bitnet:quantize", quantize_execute, quantize_complete, {argv[0], argv[4], argv[5]});
}

// ---------------------------------------------------------------------------------------------------------------------
// Masters to trits: one matrix a call, several at once on the threads of the runtime.

struct MastersJob : Job {
  const Kernels* kernels;
  const uint8_t* bytes;
  Dense dtype;
  int64_t rows, columns;
  uint8_t* out;
  float scale = 0;
};

void masters_execute(napi_env, void* data) {
  MastersJob* job = (MastersJob*)data;
  std::vector<float> row((size_t)job->columns);
  job->scale = masters_to_rowquad(*job->kernels, job->bytes, job->dtype, job->rows, job->columns, row.data(), job->out);
}

void masters_complete(napi_env env, napi_status, void* data) {
  std::unique_ptr<MastersJob> job((MastersJob*)data);
  resolve(env, *job, number(env, job->scale));
}

napi_value MastersToRowquad(napi_env env, napi_callback_info info) {
  napi_value argv[5];
  Bytes bytes, out;
  int32_t dtype = 0;
  std::unique_ptr<MastersJob> job(new MastersJob);
  if (!arguments(env, info, argv) || !typed_array(env, argv[0], napi_uint8_array, &bytes) ||
      napi_get_value_int32(env, argv[1], &dtype) != napi_ok || napi_get_value_int64(env, argv[2], &job->rows) != napi_ok ||
      napi_get_value_int64(env, argv[3], &job->columns) != napi_ok || !typed_array(env, argv[4], napi_uint8_array, &out))
    return throw_type(env, "mastersToRowquad takes (Uint8Array, dtype, rows, columns, Uint8Array)");
  if (dtype < 0 || dtype > 2 || job->rows < 1 || job->rows > kMostSide || job->columns < 1 || job->columns > kMostSide)
    return throw_type(env, "mastersToRowquad: bad argument");
  const uint64_t count = (uint64_t)job->rows * (uint64_t)job->columns;
  if (bytes.bytes != count * (uint64_t)element_bytes((Dense)dtype) || out.bytes != (uint64_t)(job->rows + 3) / 4 * (uint64_t)job->columns)
    return throw_type(env, "mastersToRowquad: the arrays do not fit rows and columns");
  job->kernels = find_isa("");
  job->bytes = (const uint8_t*)bytes.data;
  job->dtype = (Dense)dtype;
  job->out = (uint8_t*)out.data;
  return queue(env, std::move(job), "bitnet:masters", masters_execute, masters_complete, {argv[0], argv[4]});
}

// ---------------------------------------------------------------------------------------------------------------------
// Group-scaled matrices of a file to panels: one matrix a call, several at once on the threads of the runtime.

struct RepackJob : Job {
  int32_t source;
  const uint8_t* bytes;
  int64_t rows, columns;
  uint8_t* panels;
  uint16_t* scales;
  int64_t group = -1;
};

void repack_execute(napi_env, void* data) {
  RepackJob* job = (RepackJob*)data;
  const int64_t rows = job->rows, C = job->columns;
  if (!grouped_repack(job->source, job->bytes, rows, C, 0, rows, job->panels, job->scales, nullptr)) return;
  const int64_t group = grouped_source_group(job->source);
  job->group = group;
  if (group != 64 || C % 128) return;
  const int64_t panels = panels_of(rows);
  if (grouped_pairs(job->panels, job->scales, C, 0, panels)) {
    std::vector<uint16_t> joined((size_t)(panels * (C / 128) * kGroupedRows));
    grouped_join_pairs(job->panels, job->scales, C, 0, panels, joined.data());
    memcpy(job->scales, joined.data(), joined.size() * 2);
    job->group = 128;
    return;
  }
  // A scale of zero over codes that are none: whether such a half joins its neighbour is the slow way's to say.
  for (int64_t i = 0; i < panels * (C / 64) * kGroupedRows; i += 1) {
    if ((i % kGroupedRows) + i / (C / 64 * kGroupedRows) * kGroupedRows >= rows) continue;
    if ((job->scales[i] & 0x7fff) == 0) {
      job->group = -2;
      return;
    }
  }
}

void repack_complete(napi_env env, napi_status, void* data) {
  std::unique_ptr<RepackJob> job((RepackJob*)data);
  resolve(env, *job, number(env, (double)job->group));
}

/**
 * Resolves to the columns of a canonical group, whose scales then begin `scales` as [panel][group][64]; -1: a scale is not
 * finite; -2: this matrix is for the slow way. Sources of GroupedSource with groups of 64, 128 or
 * 256 (whose groups stay 256), or `packed` (0 scales).
 */
napi_value RepackGrouped(napi_env env, napi_callback_info info) {
  napi_value argv[6];
  Bytes bytes, panels, scales;
  std::unique_ptr<RepackJob> job(new RepackJob);
  if (!arguments(env, info, argv) || !typed_array(env, argv[0], napi_uint8_array, &bytes) ||
      napi_get_value_int32(env, argv[1], &job->source) != napi_ok || napi_get_value_int64(env, argv[2], &job->rows) != napi_ok ||
      napi_get_value_int64(env, argv[3], &job->columns) != napi_ok || !typed_array(env, argv[4], napi_uint8_array, &panels) ||
      !typed_array(env, argv[5], napi_uint16_array, &scales))
    return throw_type(env, "repackGrouped takes (Uint8Array, source, rows, columns, Uint8Array, Uint16Array)");
  if (job->source < 0 || job->source > (int32_t)GroupedSource::packed ||
      job->rows < 1 || job->rows > kMostSide || job->columns < 1 || job->columns > kMostSide)
    return throw_type(env, "repackGrouped: bad argument");
  const int64_t row_bytes = grouped_source_row_bytes(job->source, job->columns), group = grouped_source_group(job->source);
  const int64_t count = group == 0 ? 0 : panels_of(job->rows) * (job->columns / group) * kGroupedRows;
  if (row_bytes == 0 || bytes.bytes != (uint64_t)(job->rows * row_bytes) ||
      panels.bytes != (uint64_t)(panels_of(job->rows) * panel_bytes(job->columns)) || scales.length != (uint64_t)count)
    return throw_type(env, "repackGrouped: the arrays do not fit rows and columns");
  job->bytes = (const uint8_t*)bytes.data;
  job->panels = (uint8_t*)panels.data;
  job->scales = (uint16_t*)scales.data;
  return queue(env, std::move(job), "bitnet:repack", repack_execute, repack_complete, {argv[0], argv[4], argv[5]});
}

// ---------------------------------------------------------------------------------------------------------------------
// Limits of the machine, measured with the same loads and multiplies that the kernels use.

struct MeasureJob : Job {
  const Kernels* kernels;
  int threads;
  uint64_t bytes;
  bool read;
  double best = 0;
};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void measure_execute(napi_env, void* data) {
  MeasureJob* job = (MeasureJob*)data;
  const int rounds = 6;
  uint8_t* memory = nullptr;
  if (job->read) {
    memory = (uint8_t*)host_alloc(job->bytes);
    if (!memory) return;
    memset(memory, 1, job->bytes);
  }
  const int64_t macs = 400'000;
  std::atomic<uint64_t> sink{0};
  std::atomic<int> waiting{0};
  std::vector<double> started((size_t)job->threads), ended((size_t)job->threads);
  std::vector<int64_t> done((size_t)job->threads);
  for (int round = 0; round < rounds; round += 1) {
    waiting = 0;
    const auto body = [&](int id) {
      const uint64_t share = job->bytes / (uint64_t)job->threads / 4096 * 4096;
      waiting.fetch_add(1);
      while (waiting.load() < job->threads) std::this_thread::yield();
      started[(size_t)id] = seconds();
      if (job->read) {
        // Some machines read fastest when left alone, others when asked ahead.
        sink += job->kernels->read_bytes(memory + share * (uint64_t)id, (int64_t)share, round % 2 ? 4096 : 0);
        done[(size_t)id] = (int64_t)share;
      } else {
        done[(size_t)id] = job->kernels->peak_macs(macs);
      }
      ended[(size_t)id] = seconds();
    };
    std::vector<std::thread> threads;
    for (int t = 1; t < job->threads; t += 1) threads.emplace_back(body, t);
    body(0);
    for (auto& t : threads) t.join();
    double first = started[0], last = ended[0], total = 0;
    for (int t = 0; t < job->threads; t += 1) {
      first = started[(size_t)t] < first ? started[(size_t)t] : first;
      last = ended[(size_t)t] > last ? ended[(size_t)t] : last;
      total += (double)done[(size_t)t];
    }
    const double rate = total / (last - first);
    job->best = rate > job->best ? rate : job->best;
  }
  if (memory) host_free(memory, job->bytes);
}

void measure_complete(napi_env env, napi_status, void* data) {
  std::unique_ptr<MeasureJob> job((MeasureJob*)data);
  resolve(env, *job, number(env, job->best));
}

napi_value Measure(napi_env env, napi_callback_info info) {
  napi_value argv[4];
  std::unique_ptr<MeasureJob> job(new MeasureJob);
  int64_t bytes = 0;
  if (!arguments(env, info, argv) || napi_get_value_int32(env, argv[2], &job->threads) != napi_ok ||
      napi_get_value_int64(env, argv[3], &bytes) != napi_ok)
    return throw_type(env, "measure takes (kind, isa, threads, bytes)");
  const std::string kind = text_of(env, argv[0]), isa = text_of(env, argv[1]);
  job->kernels = find_isa(isa.c_str());
  job->bytes = (uint64_t)bytes;
  job->read = kind == "read";
  if (!job->kernels || job->threads < 1 || job->threads > kMaxThreads || (!job->read && kind != "macs") ||
      (job->read && (bytes < 1 << 20 || bytes > (int64_t)1 << 36)))
    return throw_type(env, "measure: bad argument");
  return queue(env, std::move(job), "bitnet:measure", measure_execute, measure_complete, {});
}

}  // namespace

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback call;
  } functions[] = {{"isas", Isas},
                   {"selfTest", SelfTest},
                   {"load", Load},
                   {"settle", Settle},
                   {"createSequence", CreateSequence},
                   {"freeSequence", FreeSequence},
                   {"sequenceLength", SequenceLength},
                   {"rewindLimit", RewindLimit},
                   {"truncate", Truncate},
                   {"fork", Fork},
                   {"step", RunStep},
                   {"info", Info},
                   {"useThreads", UseThreads},
                   {"dispose", Dispose},
                   {"expectHugePages", ExpectHugePages},
                   {"mastersToRowquad", MastersToRowquad},
                   {"repackGrouped", RepackGrouped},
                   {"quantizeRows", QuantizeRows},
                   {"measure", Measure}};
  for (const auto& f : functions) {
    napi_value v;
    napi_create_function(env, f.name, NAPI_AUTO_LENGTH, f.call, nullptr, &v);
    napi_set_named_property(env, exports, f.name, v);
  }
  return exports;
}
