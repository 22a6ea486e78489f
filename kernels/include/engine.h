// The interpreter of recorded programs (src/engine/program.ts), without threads, files or a C library: the addon runs
// it on a thread pool, the WebAssembly build in a plain loop or on a pool of its own, the fuzz target under sanitizers.
//
// Life: engine_create decodes and checks a program once. Then, per step: engine_begin checks the step and makes room,
// engine_stages / engine_items say what there is to do, engine_run_item does one item (any thread, any order within a
// stage, all items of a stage before the next stage), engine_end settles. Nothing is allocated between begin and end.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"
#include "operations.h"

namespace bitnet {

enum class Status : int32_t {
  ok = 0,
  bad_program = 1,
  bad_step = 2,
  out_of_memory = 3,
  non_finite = 4,
  bad_sequence = 5,
};

struct Failure {
  Status status = Status::ok;
  /** Index of the operation, or -1. */
  int32_t op = -1;
  char text[200] = {};
};

/** Bytes of the caller, alive and unchanged as long as the engine. */
struct Blob {
  const void* data;
  uint64_t size;
};

struct Step {
  int32_t rows;
  const int32_t* tokens;
  const int32_t* sequences;
  const int32_t* positions;
  int32_t outputs;
  const int32_t* output_rows;
  bool trace;
  float* logits;         // (outputs, vocab); null: they stay in here
  int32_t* trit_counts;  // (rows, tracePoints, 3); only read when trace
  /** So many of the largest logits of each output row are told, and the sum of their weights; 0: none. */
  int32_t top = 0;
  int32_t* top_ids = nullptr;   // (outputs, top)
  float* top_logits = nullptr;  // (outputs, top)
  double* masses = nullptr;     // (outputs,)
};

/** Calls of each kind of kernel since the engine was created. */
struct Counters {
  uint64_t ternary_vector;  // one token
  uint64_t ternary_matrix;  // several tokens
  uint64_t int8;
  uint64_t dense;
  uint64_t attention;
  uint64_t grouped_vector;  // one token
  uint64_t grouped_matrix;  // several tokens
  uint64_t delta;
};

struct Memory {
  uint64_t activations;
  uint64_t kv;
  uint64_t scratch;
  uint64_t recurrent;  // states of all sequences
};

struct Engine;

/** The kernels that read weights end to end, each with a prefetch distance of its own. */
enum class Stream : int32_t { ternary = 0, int8 = 1, dense = 2, grouped = 3 };
constexpr int kStreams = 4;

/** threads: how many may run items at once. Null and `failure` filled when the program is refused. */
Engine* engine_create(const int32_t* words, uint64_t word_count, const Blob* blobs, uint32_t blob_count,
                      const Kernels* kernels, int32_t threads, int64_t prefetch, Failure* failure);
void engine_free(Engine*);

/** Id >= 0, or -1. */
int32_t engine_sequence_create(Engine*);
bool engine_sequence_free(Engine*, int32_t sequence);
/** -1 when there is no such sequence. */
int32_t engine_sequence_length(const Engine*, int32_t sequence);
/**
 * The least length, beside 0, to which a sequence can be cut or at which it can be forked: 0 with a plain KV cache, its
 * length with recurrent states, with windows what still has its window. -1 when there is no such sequence.
 */
int32_t engine_rewind_limit(const Engine*, int32_t sequence);
bool engine_truncate(Engine*, int32_t sequence, int32_t length, Failure*);
int32_t engine_fork(Engine*, int32_t sequence, int32_t length, Failure*);

bool engine_begin(Engine*, const Step&, Failure*);
int32_t engine_stages(const Engine*);
int32_t engine_items(const Engine*, int32_t stage);
void engine_run_item(Engine*, int32_t stage, int32_t item, int32_t thread);
/** Rows of the step. */
int32_t engine_rows(const Engine*);
/** Whether a stage is the same point of one layer as another such stage is of another. */
bool engine_starts_layer(const Engine*, int32_t stage);
/** Multiply-adds of the matrix products of a stage. */
int64_t engine_stage_work(const Engine*, int32_t stage);
/**
 * The codes that one of `parts` equal parts of a stage's items reads, as at most `most` pieces; returns how many. None where a
 * step of many rows has other worries than memory.
 */
int32_t engine_weights(const Engine*, int32_t stage, int32_t part, int32_t parts, Blob* pieces, int32_t most);
/** True when a stage that has run met a NaN or infinity: the rest may be skipped. */
bool engine_failed(const Engine*);
/** Moves the sequences on, or reports why the step failed and leaves them as they were; empty with recurrent states. */
bool engine_end(Engine*, Failure*);
/** Instead of engine_end, for a step whose items cannot all be run: true when its sequences are now empty. */
bool engine_abandon(Engine*);

Counters engine_counters(const Engine*);
Memory engine_memory(const Engine*);
struct EngineSizes {
  const char* isa;
  int32_t vocab;
  int32_t trace_points;
};
EngineSizes engine_sizes(const Engine*);
/** The bytes of the i-th matrix that a product reads (an embedding table is none); false past the last. */
bool engine_matrix(const Engine*, uint32_t i, Blob* out);
/** Multiply-adds of one token through the matrices of the program, to judge whether threads pay. */
int64_t engine_macs_per_row(const Engine*);

/** Bytes that each thread asks for ahead of its stream of weights of one kind; may change between two steps. */
int64_t engine_prefetch(const Engine*, Stream);
void engine_set_prefetch(Engine*, Stream, int64_t bytes);
/**
 * Multiplies the n-th 2 MiB piece of the largest matrices of a kind by one row of zeros, so that a distance can be
 * timed. Returns the bytes read; 0 past the last piece, for small matrices and without memory.
 */
uint64_t engine_stream(Engine*, Stream, uint64_t piece, int64_t prefetch);

// What the surroundings provide.
/** Zeroed and 64-byte aligned, or null. */
void* host_alloc(uint64_t bytes);
void host_free(void* p, uint64_t bytes);
/**
 * Asks the system to hold memory that is read end to end again and again on huge pages; contents do not change. Native
 * builds only. Returns how many bytes now are.
 */
uint64_t host_prefer_huge_pages(const void* p, uint64_t bytes);
/**
 * The same wish for memory that nobody has touched yet: it then comes in huge pages from the start, with fewer page
 * faults and no copy later. Returns how many bytes in the first huge page begins; 0 where the system has none.
 */
uint64_t host_expect_huge_pages(void* p, uint64_t bytes);

// Program words ------------------------------------------------------------------------------------------------------
// header, then buffers, weights, operations, the window of each layer, the width of each recurrent state;
// src/engine/recorded/encode.ts writes them, operations.h has their words.
constexpr int32_t kProgramMagic = 0x62313539;  // "b159"

}  // namespace bitnet
