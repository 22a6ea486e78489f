// The engine as a WebAssembly module with a small heap of its own in the linear memory. JavaScript copies the program's
// bytes in, then drives it through the functions exported here; src/engine/wasm/backend.ts is the only caller. One thread
// makes all calls but `serve`, which in the build with atomics runs in instances of other threads, on the same memory.
// Compiled freestanding (scripts/build-wasm.mjs); there is no C library.
#include "../cpu/float_ops.h"
#include "../cpu/grouped_rows.h"
#include "../cpu/grouped_wasm.h"
#include "../cpu/hybrid_ops.h"
#include "../cpu/matmul_wasm.h"
#include "../cpu/top_logits.h"
#include "../include/engine.h"
#if defined(__wasm_atomics__)
#include "pool.h"
#endif

namespace bitnet {
namespace {

constexpr Kernels kWasmKernels = {
#if defined(__wasm_relaxed_simd__)
    "relaxed-simd",
#else
    "simd128",
#endif
    64,        ternary_scratch_none, ternary_wasm, int8_wasm, dense, kAttention, embed,       rms_norm,   quantize,
    rope,      kv_append,            relu2,        silu,      add,   count_trits, read_bytes, peak_macs_scalar,
    grouped_scratch_wasm, grouped_wasm, quantize16, embed_grouped, top_logits, kHybrid,
};

// Heap: blocks in address order, each with a header; free neighbours are joined when searched.
struct Chunk {
  uint64_t size;  // bytes behind the header
  bool used;
  Chunk* next;
};
constexpr uint64_t kHeader = 64;
constexpr uint64_t kPage = 65536;
static_assert(sizeof(Chunk) <= kHeader, "header");

Chunk* first = nullptr;
Chunk* last = nullptr;

extern "C" uint8_t __heap_base;

Chunk* grow(uint64_t size) {
  const uint64_t pages = (size + kHeader + kPage - 1) / kPage + 1;
  if (pages > 65535) return nullptr;
  const size_t before = __builtin_wasm_memory_grow(0, (size_t)pages);
  if (before == (size_t)-1) return nullptr;
  uint64_t start = before * kPage, end = (before + pages) * kPage;
  if (!first) {
    // What the linker left of the first pages.
    const uint64_t base = ((uint64_t)(uintptr_t)&__heap_base + 63) / 64 * 64;
    start = base;
  }
  if (last && !last->used && (uint64_t)(uintptr_t)last + kHeader + last->size == start) {
    last->size += end - start;
    return last;
  }
  Chunk* c = (Chunk*)(uintptr_t)start;
  c->size = end - start - kHeader;
  c->used = false;
  c->next = nullptr;
  if (last) last->next = c;
  else first = c;
  last = c;
  return c;
}

void split(Chunk* c, uint64_t size) {
  if (c->size < size + kHeader + 64) return;
  Chunk* rest = (Chunk*)((uint8_t*)c + kHeader + size);
  rest->size = c->size - size - kHeader;
  rest->used = false;
  rest->next = c->next;
  c->next = rest;
  c->size = size;
  if (last == c) last = rest;
}

Engine* engine = nullptr;
Failure failure;
#if defined(__wasm_atomics__)
Pool pool;
#endif

}  // namespace

void* host_alloc(uint64_t bytes) {
  const uint64_t size = (bytes + 63) / 64 * 64 + (bytes == 0 ? 64 : 0);
  for (Chunk* c = first; c; c = c->next) {
    if (c->used) continue;
    while (c->next && !c->next->used) {
      if (last == c->next) last = c;
      c->size += kHeader + c->next->size;
      c->next = c->next->next;
    }
    if (c->size < size) continue;
    split(c, size);
    c->used = true;
    __builtin_memset((uint8_t*)c + kHeader, 0, (size_t)size);
    return (uint8_t*)c + kHeader;
  }
  Chunk* c = grow(size);
  if (!c || c->size < size) return nullptr;
  split(c, size);
  c->used = true;
  __builtin_memset((uint8_t*)c + kHeader, 0, (size_t)size);
  return (uint8_t*)c + kHeader;
}

void host_free(void* p, uint64_t) {
  if (p) ((Chunk*)((uint8_t*)p - kHeader))->used = false;
}

#define EXPORT(name) __attribute__((export_name(#name)))

extern "C" {

EXPORT(alloc) void* wasm_alloc(uint32_t bytes) { return host_alloc(bytes); }
EXPORT(free) void wasm_free(void* p) { host_free(p, 0); }

/** blobs: pairs of (address, bytes) as uint32; threads: that may run items at once. 1 when the program was taken. */
EXPORT(create)
int32_t wasm_create(const int32_t* words, uint32_t word_count, const uint32_t* pairs, uint32_t count, int32_t threads) {
  Blob* blobs = (Blob*)host_alloc((uint64_t)count * sizeof(Blob));
  if (!blobs) return 0;
  for (uint32_t i = 0; i < count; i += 1) blobs[i] = Blob{(const void*)(uintptr_t)pairs[2 * i], pairs[2 * i + 1]};
  engine = engine_create(words, word_count, blobs, count, &kWasmKernels, threads, 0, &failure);
  host_free(blobs, 0);
  return engine != nullptr;
}

EXPORT(sequence_create) int32_t wasm_sequence_create() { return engine_sequence_create(engine); }
EXPORT(sequence_free) void wasm_sequence_free(int32_t id) { engine_sequence_free(engine, id); }
EXPORT(sequence_length) int32_t wasm_sequence_length(int32_t id) { return engine_sequence_length(engine, id); }
EXPORT(rewind_limit) int32_t wasm_rewind_limit(int32_t id) { return engine_rewind_limit(engine, id); }
EXPORT(truncate) int32_t wasm_truncate(int32_t id, int32_t length) { return engine_truncate(engine, id, length, &failure); }
EXPORT(fork) int32_t wasm_fork(int32_t id, int32_t length) { return engine_fork(engine, id, length, &failure); }

/** 1 when the step can run; then run_stage 0 .. stages - 1, then end. */
EXPORT(begin)
int32_t wasm_begin(int32_t rows, const int32_t* tokens, const int32_t* sequences, const int32_t* positions, int32_t outputs,
                   const int32_t* output_rows, int32_t trace, float* logits, int32_t* trit_counts, int32_t top, int32_t* top_ids,
                   float* top_logits, double* masses) {
  failure = Failure{};
  const Step step{rows, tokens, sequences, positions, outputs, output_rows, trace != 0, logits, trit_counts,
                  top,  top_ids, top_logits, masses};
  return engine_begin(engine, step, &failure);
}
EXPORT(stages) int32_t wasm_stages() { return engine_stages(engine); }
/** 0 when a NaN was met. */
EXPORT(run_stage) int32_t wasm_run_stage(int32_t stage) {
  const int32_t items = engine_items(engine, stage);
  for (int32_t i = 0; i < items; i += 1) engine_run_item(engine, stage, i, 0);
  return !engine_failed(engine);
}
#if defined(__wasm_atomics__)
/** Before the threads are there: how many serve. */
EXPORT(set_threads) void wasm_set_threads(int32_t threads) { pool.set_threads(threads); }
/** All stages, by the threads that serve; instead of run_stage, once a step. env.finished tells when end may follow. */
EXPORT(start) void wasm_start() { pool.start(engine); }
EXPORT(progress) uint32_t wasm_progress() { return pool.progress(); }
/** A thread's whole life. */
EXPORT(serve) void wasm_serve(int32_t thread) { pool.serve(thread); }
#endif
EXPORT(end) int32_t wasm_end() { return engine_end(engine, &failure); }
/** Instead of end, when the threads of a step were lost: 1 when its sequences are now empty, 0 when it may begin again. */
EXPORT(abandon) int32_t wasm_abandon() { return engine_abandon(engine); }

EXPORT(failure_status) int32_t wasm_failure_status() { return (int32_t)failure.status; }
EXPORT(failure_op) int32_t wasm_failure_op() { return failure.op; }
EXPORT(failure_text) const char* wasm_failure_text() { return failure.text; }
}

}  // namespace bitnet
