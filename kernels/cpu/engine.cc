// See engine.h. Three parts: decoding and checking a program, sequences and their KV blocks, running a step.
#include "../include/engine.h"

namespace bitnet {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Small helpers: there is no C library in the WebAssembly build.

void copy_bytes(void* to, const void* from, uint64_t n) { __builtin_memcpy(to, from, n); }

struct TextWriter {
  char* at;
  char* end;
  void text(const char* s) {
    while (*s && at < end) *at++ = *s++;
  }
  void number(int64_t n) {
    char digits[24];
    int count = 0;
    uint64_t v = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
    do {
      digits[count++] = (char)('0' + v % 10);
      v /= 10;
    } while (v);
    if (n < 0 && at < end) *at++ = '-';
    while (count && at < end) *at++ = digits[--count];
  }
};

struct Arg {
  const char* text = nullptr;
  int64_t value = 0;
  Arg(const char* t) : text(t) {}
  Arg(int64_t v) : value(v) {}
  Arg(int32_t v) : value(v) {}
  Arg(uint64_t v) : value((int64_t)v) {}
};

template <class... Args>
bool fail(Failure* failure, Status status, int32_t op, Args... args) {
  failure->status = status;
  failure->op = op;
  TextWriter out{failure->text, failure->text + sizeof failure->text - 1};
  const Arg list[] = {args...};
  for (const Arg& a : list) {
    if (a.text) out.text(a.text);
    else out.number(a.value);
  }
  *out.at = 0;
  return false;
}

/** A fixed-size array from the host; T is plain data. */
template <class T>
struct Array {
  T* data = nullptr;
  uint64_t size = 0;
  bool allocate(uint64_t n) {
    release();
    if (n == 0) return true;
    if (n > (uint64_t)1 << 60) return false;
    data = (T*)host_alloc(n * sizeof(T));
    if (!data) return false;
    size = n;
    return true;
  }
  /** Keeps the first elements. */
  bool grow(uint64_t n) {
    if (n <= size) return true;
    Array<T> next;
    if (!next.allocate(n)) return false;
    if (size) copy_bytes(next.data, data, size * sizeof(T));
    release();
    data = next.data;
    size = n;
    return true;
  }
  void release() {
    if (data) host_free(data, size * sizeof(T));
    data = nullptr;
    size = 0;
  }
  T& operator[](uint64_t i) { return data[i]; }
  const T& operator[](uint64_t i) const { return data[i]; }
};

// Limits on untrusted programs, with the largest value of a real model beside each.
constexpr int32_t kMaxBuffers = 1 << 16;    // about 20
constexpr int32_t kMaxWeights = 1 << 20;    // 2B-4T: 332
constexpr int32_t kMaxOps = 1 << 20;        // 2B-4T: about 700
constexpr int32_t kMaxWidth = 1 << 22;      // vocabularies of 262144
constexpr int32_t kMaxColumns = 1 << 17;    // feed-forward of 14336; beyond, js's exact sums would not fit a double
constexpr int32_t kMaxGroup = 1 << 15;      // 128; 2 * 32639 * 2^15 fits int32
constexpr int32_t kMaxLayers = 4096;        // 40
constexpr int32_t kMaxHeads = 4096;         // 32
constexpr int32_t kMaxHeadDim = 4096;       // 256
constexpr int32_t kMaxContext = 1 << 24;    // 131072
constexpr int32_t kMaxRows = 1 << 15;       // rows of one step: prompt chunks of 512
constexpr int32_t kMaxSequences = 1 << 16;
/** Of each kind of block, kept for the next sequence: getting and clearing pages takes a short text longer than writing them. */
constexpr uint64_t kSpareBytes = 64 << 20;
constexpr int32_t kMaxTop = 64;
constexpr int32_t kMaxStates = 1 << 13;     // 96: two in each layer with a delta rule
constexpr int32_t kMaxChoices = 1 << 7;     // 10
constexpr int32_t kMaxExperts = 1 << 14;    // 512
constexpr int32_t kMaxBlock = 1 << 20;      // of a rotation: 1024

// Packed bytes of one work item: small enough that a thread which loses its core holds up the others for microseconds,
// and, in a large matrix, so large that claiming one costs nothing beside it.
constexpr int64_t kChunkBytes = 48 * 1024, kMostChunkBytes = 256 * 1024, kChunksPerThread = 16;

// Rows that are multiplied with one expert together, and the memory of a thread for them.
constexpr int64_t kExpertRows = 64, kExpertBytes = 1 << 20;

// Channels of a convolution in one work item: their inputs stay in the nearest cache from row to row.
constexpr int64_t kMostChannels = 1024;

// What a prefetch distance is timed on: long beside the start of a stream, and many of them in the largest matrices.
constexpr uint64_t kPieceBytes = 2 << 20;

enum class RowKind : int32_t { tokens = 0, outputs = 1, choices = 2 };

struct Buffer {
  BufferType type;
  RowKind rows;
  int32_t width;
  int32_t group;    // of an i16 buffer
  int32_t experts;  // of an i32 buffer: its elements are below; 0 until an operation uses it
  uint64_t row_bytes;
  uint8_t* data;  // during a step
};

struct Weight {
  WeightKind kind;
  int64_t rows, columns;
  Dense dtype;
  const uint8_t* bytes;
  const float* row_scale;
  const uint8_t* scales;  // grouped: of type dtype
  int64_t group;
  int64_t experts;  // grouped: matrices of that shape
  float scale;
  const uint8_t* tail;
  int64_t tail_first;
};

/** What a matrix product is split by: byte rows of four rows each, panels of 64, or rows; of one expert. */
int64_t units_of(const Weight& w) {
  if (w.kind == WeightKind::grouped) return panels_of(w.rows);
  return w.kind == WeightKind::ternary ? (w.rows + 3) / 4 : w.rows;
}
/** Bytes of codes or elements, without scales. */
int64_t unit_bytes(const Weight& w) {
  if (w.kind == WeightKind::grouped) return panel_bytes(w.columns);
  return w.columns * (w.kind != WeightKind::dense ? 1 : element_bytes(w.dtype));
}
int64_t all_units(const Weight& w) { return units_of(w) * w.experts; }
/** Bytes of the scales of one expert. */
int64_t expert_scale_bytes(const Weight& w) { return units_of(w) * (w.columns / w.group) * kGroupedRows * element_bytes(w.dtype); }

Stream stream_of(const Weight& w) {
  switch (w.kind) {
    case WeightKind::ternary: return Stream::ternary;
    case WeightKind::int8: return Stream::int8;
    case WeightKind::grouped: return Stream::grouped;
    default: return Stream::dense;
  }
}

constexpr int32_t kMostOpWords = 11;

// Values of enumerated words, as operations.h lists them.
enum GateFn : int32_t { kRelu2 = 0, kSilu = 1, kSigmoid = 2, kClampedSilu = 3 };
constexpr int32_t kForward = 0, kTiled = 0;

/** `as<op::Embed>()` gives the words their names. */
struct Op {
  OpKind kind;
  int32_t words[kMostOpWords];
  template <class Fields>
  Fields as() const {
    static_assert(sizeof(Fields) <= sizeof words, "kMostOpWords is too small");
    Fields fields;
    copy_bytes(&fields, words, sizeof fields);
    return fields;
  }
};

/** The operands of a matrix product, whichever it is; `scale` is -1 where the operand is float. */
struct Product {
  int32_t x, scale, weight, out;
};
bool is_product(OpKind kind) {
  return kind == OpKind::ternary_matmul || kind == OpKind::int8_matmul || kind == OpKind::dense_matmul ||
         kind == OpKind::grouped_matmul;
}
/** Products that read weights end to end. */
bool reads_matrix(OpKind kind) { return is_product(kind) || kind == OpKind::expert_matmul; }
Product product_of(const Op& o) {
  if (o.kind == OpKind::dense_matmul) {
    const auto f = o.as<op::DenseMatmul>();
    return Product{f.x, -1, f.weight, f.out};
  }
  if (o.kind == OpKind::expert_matmul) {
    const auto f = o.as<op::ExpertMatmul>();
    return Product{f.codes, f.scale, f.weight, f.out};
  }
  // The others have the same four words.
  const auto f = o.as<op::TernaryMatmul>();
  return Product{f.codes, f.scale, f.weight, f.out};
}

enum class StageKind : int32_t { rows, matmul, scores, attention, conv, delta, group, experts, top };

struct Stage {
  StageKind kind;
  RowKind rows;         // of a stage of rows
  int32_t first, last;  // operations [first, last)
  int32_t items;        // during a step; of `experts` since the choices were grouped
};

/** How the items of one operation lie in its stage, during a step. */
struct Split {
  int32_t items;
  int32_t row_chunks;  // chunks of the matrix; of the channels or value dimensions of one run or head
  int32_t chunk;       // byte rows (ternary) or rows; channels, value dimensions
};

/** Choices that fell on one expert, of `order`. */
struct Segment {
  int32_t expert, first, count;
};

/** Layers whose caches are kept alike: whole, or as far as a window still sees. */
struct Cache {
  int64_t layers;
  int64_t window;  // the largest one; 0: all positions
  int64_t block_floats;
};
enum CacheKind { kWhole = 0, kWindowed = 1, kCaches = 2 };

struct Layer {
  int32_t cache;
  int64_t window;
  int64_t at;  // floats into a block of its cache
};

/** A recurrent state of all sequences. */
struct State {
  int64_t width;  // as the program has it
  int64_t at;     // floats into a sequence's memory
  bool used;      // by an operation
};

/** A cache line or more for each thread: counts in one place would travel between them with every item. */
struct alignas(64) ThreadCounters : Counters {};

/** kBlock positions of one sequence, shared by forks until one of them writes. */
struct KvBlock {
  int32_t owners;
  int32_t unused[15];  // floats start 64 bytes in
  float* floats() { return (float*)(this + 1); }
};
static_assert(sizeof(KvBlock) == 64, "keeps the floats aligned");

struct Sequence {
  bool used;
  int32_t length;
  Array<float*> blocks[kCaches];  // floats of each block
  int64_t kept;  // the first block of windowed layers that is still there
  Array<float> state;  // of all recurrent states; none: zeros
};

struct Run {
  int32_t first, rows;  // rows of the step
  int32_t sequence;
};

/** How many parts of an attention are done; the last one joins them. */
struct alignas(64) Arrivals {
  int32_t count;
};

KvBlock* block_of(float* floats) { return (KvBlock*)floats - 1; }

}  // namespace

struct Engine {
  const Kernels* k;
  int32_t threads;
  int64_t prefetch[kStreams];

  Array<Buffer> buffers;
  Array<Weight> weights;
  Array<Op> ops;
  Array<Stage> stages;
  Array<float> own_logits;
  Array<float*> spare[kCaches];  // blocks that no sequence has
  int32_t spare_count[kCaches] = {};
  int32_t stage_count = 0;
  Array<Split> splits;     // per operation
  Array<uint8_t> tails;

  int32_t layers, kv_heads, head_dim, rotary_dim, context, vocab, logits, trace_points, choices;
  const float* cos;
  const float* sin;
  int64_t layer_floats;
  Cache caches[kCaches];
  Array<Layer> layer_table;
  Array<State> states;
  int64_t state_floats = 0;  // of a sequence
  int64_t expert_rows = kExpertRows;
  int64_t macs_per_row = 0;
  int64_t scratch_bytes = 0;

  Array<Sequence> sequences;
  uint64_t kv_bytes = 0, state_bytes = 0;

  // Step state.
  Step step;
  int32_t row_capacity = 0, output_capacity = 0;
  Array<uint8_t> arena;
  Array<uint8_t> scratch;      // per thread: matmul scratch, then score rows
  int64_t scratch_stride = 0, score_stride = 0;
  Array<float> factors;        // per thread: token_block floats
  Array<Run> runs;
  int32_t run_count = 0;
  Array<int32_t> group_first;  // per run: first attention row group
  int32_t heads_per_kv, attention_rows;
  int32_t most_queries = 1;    // of one row that read the same KV head
  // Where a few rows leave threads idle, the keys of each are shared out: a stage of scores, then one of values.
  int32_t key_parts = 1;
  Array<float> shared;         // per row and KV head: see shared_floats
  int64_t shared_stride = 0;
  Array<Arrivals> arrivals;    // the same; 0 when a stage begins
  Array<int32_t> order;        // choices by expert, since they were grouped
  Array<int32_t> expert_ends;  // scratch of grouping
  Array<Segment> segments;
  int32_t segment_count = 0;
  int32_t failed_op;           // lowest operation that met a NaN, or INT32_MAX; atomic
  Array<ThreadCounters> counters;  // per thread

  float* f32(int32_t buffer, int64_t row) const {
    const Buffer& b = buffers[buffer];
    return (float*)(b.data + row * b.row_bytes);
  }
  int32_t* i32(int32_t buffer, int64_t row) const { return (int32_t*)planes(buffer, row); }
  int8_t* i8(int32_t buffer, int64_t row) const { return (int8_t*)planes(buffer, row); }
  uint8_t* planes(int32_t buffer, int64_t row) const {
    const Buffer& b = buffers[buffer];
    return b.data + row * b.row_bytes;
  }
  /** Of the running step. */
  int64_t rows_of(RowKind kind) const {
    return kind == RowKind::tokens ? step.rows : kind == RowKind::outputs ? step.outputs : (int64_t)step.rows * choices;
  }
  int64_t rows_of(int32_t buffer) const { return rows_of(buffers[buffer].rows); }
};

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Decoding

float float_of(int32_t bits) {
  float f;
  copy_bytes(&f, &bits, 4);
  return f;
}
bool finite(float f) {
  int32_t bits;
  copy_bytes(&bits, &f, 4);
  return (bits & 0x7f800000) != 0x7f800000;
}

struct Decoder {
  Engine& e;
  const int32_t* words;
  const Blob* blobs;
  int32_t blob_count;
  Failure* failure;
  int32_t op = -1;

  template <class... Args>
  bool bad(Args... args) {
    if (op >= 0) return fail(failure, Status::bad_program, op, "operation ", op, " (", kOpShapes[(int)e.ops[op].kind].name, "): ", args...);
    return fail(failure, Status::bad_program, op, args...);
  }

  bool in_range(int32_t v, int32_t low, int32_t high, const char* what) {
    if (v >= low && v <= high) return true;
    return bad(what, " is ", v, ", must be in ", low, "..", high);
  }

  /** Null when the blob does not exist or has not exactly `size` bytes. */
  const uint8_t* blob(int32_t index, uint64_t size, const char* what) {
    if (index < 0 || index >= blob_count) {
      bad(what, ": blob ", index, " of ", blob_count);
      return nullptr;
    }
    if (blobs[index].size != size || (size && !blobs[index].data)) {
      bad(what, " has ", blobs[index].size, " bytes, must have ", size);
      return nullptr;
    }
    return (const uint8_t*)blobs[index].data;
  }

  /** The same for floats, which must be aligned. */
  const float* floats(int32_t index, uint64_t count, const char* what) {
    const uint8_t* bytes = blob(index, count * 4, what);
    if (!bytes || (uintptr_t)bytes % 4 == 0) return (const float*)bytes;
    bad(what, " are not aligned to 4 bytes");
    return nullptr;
  }

  bool buffer(int32_t id, BufferType type, int32_t width, const char* what) {
    const Buffer& b = e.buffers[id];
    const char* const names[] = {" must be f32", " must be i8", " must be i16", " must be i32"};
    if (b.type != type) return bad(what, ": buffer ", id, names[(int)type]);
    if (width > 0 && b.width != width) return bad(what, ": buffer ", id, " is ", b.width, " wide, must be ", width);
    return true;
  }
  bool same_rows(int32_t a, int32_t b, const char* what) {
    if (e.buffers[a].rows == e.buffers[b].rows) return true;
    return bad(what, ": buffers ", a, " and ", b, " count different rows");
  }
  bool token_rows(int32_t a, const char* what) {
    return e.buffers[a].rows == RowKind::tokens ? true : bad(what, ": buffer ", a, " must have 'tokens' rows");
  }
  bool choice_rows(int32_t a, const char* what) {
    return e.buffers[a].rows == RowKind::choices ? true : bad(what, ": buffer ", a, " must have 'choices' rows");
  }
  bool floats_of(int32_t id, int32_t width, const char* what) { return buffer(id, BufferType::f32, width, what); }
  bool weight(int32_t id, WeightKind kind, const char* what) {
    return e.weights[id].kind == kind ? true : bad(what, ": weight ", id, " has the wrong kind");
  }
  bool distinct(int32_t a, int32_t b) {
    return a != b ? true : bad("buffer ", a, " is both read and written");
  }

  bool header(uint64_t word_count, int32_t& n_buffers, int32_t& n_weights, int32_t& n_ops, int32_t& op_words, int32_t& n_states) {
    if (word_count < (uint64_t)kHeaderWords || words[0] != kProgramMagic) return bad("not a program of this version");
    n_buffers = words[1], n_weights = words[2], n_ops = words[3], op_words = words[4];
    e.layers = words[5], e.kv_heads = words[6], e.head_dim = words[7], e.rotary_dim = words[8];
    e.context = words[9], e.vocab = words[10], e.logits = words[11], e.trace_points = words[12];
    n_states = words[15], e.choices = words[16];
    if (!in_range(n_buffers, 1, kMaxBuffers, "number of buffers") ||
        !in_range(n_weights, 0, kMaxWeights, "number of weights") || !in_range(n_ops, 1, kMaxOps, "number of operations") ||
        !in_range(op_words, n_ops, n_ops * (kMostOpWords + 1), "words of operations") ||
        !in_range(e.layers, 0, kMaxLayers, "kv.layers") || !in_range(e.kv_heads, 1, kMaxHeads, "kv.kvHeads") ||
        !in_range(e.head_dim, 1, kMaxHeadDim, "kv.headDim") || !in_range(e.rotary_dim, 2, kMaxHeadDim, "rope.rotaryDim") ||
        !in_range(e.context, 1, kMaxContext, "contextLength") || !in_range(e.vocab, 1, kMaxWidth, "vocabSize") ||
        !in_range(e.trace_points, 0, kMaxOps, "tracePoints") || !in_range(n_states, 0, kMaxStates, "number of recurrent states") ||
        !in_range(e.choices, 0, kMaxChoices, "choices"))
      return false;
    if (e.rotary_dim % 2) return bad("rope.rotaryDim ", e.rotary_dim, " is odd");
    const uint64_t need = (uint64_t)kHeaderWords + (uint64_t)n_buffers * kBufferWords + (uint64_t)n_weights * kWeightWords +
                          (uint64_t)op_words + (uint64_t)e.layers + (uint64_t)n_states;
    if (word_count != need) return bad("program has ", word_count, " words, must have ", need);
    const uint64_t table = (uint64_t)e.context * (e.rotary_dim / 2);
    e.cos = floats(words[13], table, "rope.cos");
    e.sin = e.cos ? floats(words[14], table, "rope.sin") : nullptr;
    if (!e.sin) return false;
    e.layer_floats = e.kv_heads * (k_head_floats(e.head_dim) + v_head_floats(e.head_dim));
    return true;
  }

  /** The windows of the layers and the widths of the recurrent states. */
  bool decode_tail(const int32_t* windows, int32_t n_states) {
    if (!e.layer_table.allocate(e.layers) || !e.states.allocate(n_states)) return memory();
    for (int32_t i = 0; i < e.layers; i += 1) {
      if (!in_range(windows[i], 0, INT32_MAX, "window")) return false;
      const int32_t kind = windows[i] == 0 ? kWhole : kWindowed;
      Cache& cache = e.caches[kind];
      e.layer_table[i] = Layer{kind, windows[i], cache.layers * e.layer_floats};
      cache.layers += 1;
      cache.window = windows[i] > cache.window ? windows[i] : cache.window;
    }
    for (Cache& cache : e.caches) {
      cache.block_floats = cache.layers * e.layer_floats;
      if (cache.block_floats > (int64_t)1 << 32) return bad("one block of the KV cache would hold ", cache.block_floats, " floats");
    }
    for (int32_t i = 0; i < n_states; i += 1) {
      if (!in_range(windows[e.layers + i], 0, INT32_MAX, "width of a recurrent state")) return false;
      e.states[i].width = windows[e.layers + i];
    }
    return true;
  }

  /** A state of `width` floats that is kept in `floats`; each belongs to one operation. */
  bool state(int32_t id, int64_t width, int64_t floats) {
    if (!in_range(id, 0, (int32_t)e.states.size - 1, "state")) return false;
    State& s = e.states[id];
    if (s.width != width) return bad("state ", id, " is ", s.width, " wide, must be ", width);
    if (s.used) return bad("state ", id, " belongs to another operation");
    s.used = true;
    s.at = e.state_floats;
    e.state_floats += round_up(floats < 1 ? 1 : floats, kLanes);
    return true;
  }

  bool memory() { return fail(failure, Status::out_of_memory, -1, "not enough memory to load the program"); }

  /** Columns of a group: they divide the row, and an int32 holds their sum. */
  bool group(int32_t columns, int64_t width) {
    if (!in_range(columns, 1, kMaxGroup, "group")) return false;
    if (width % columns) return bad("groups of ", columns, " do not divide ", width, " columns");
    return columns % 4 == 0 || columns == width ? true : bad("groups of ", columns, " are no multiple of 4");
  }

  bool decode_buffers(const int32_t* at, int32_t n) {
    if (!e.buffers.allocate(n)) return memory();
    for (int32_t i = 0; i < n; i += 1, at += kBufferWords) {
      if (!in_range(at[0], 0, 3, "buffer dtype") || !in_range(at[1], 0, 2, "buffer rows") ||
          !in_range(at[2], 1, kMaxWidth, "buffer width"))
        return false;
      Buffer& b = e.buffers[i];
      b.type = (BufferType)at[0];
      b.rows = (RowKind)at[1];
      if (b.rows == RowKind::choices && e.choices == 0) return bad("buffer ", i, " has 'choices' rows, the program no choices");
      b.width = at[2];
      b.group = at[3];
      if (b.type == BufferType::i16 && (!in_range(b.width, 1, kMaxColumns, "width of an i16 buffer") || !group(b.group, b.width)))
        return false;
      b.row_bytes = b.type == BufferType::i8    ? code_stride(b.width)
                    : b.type == BufferType::i16 ? planes_stride(b.width, b.group)
                                                : (uint64_t)b.width * 4;
    }
    if (!in_range(e.logits, 0, n - 1, "logits") || !floats_of(e.logits, e.vocab, "logits")) return false;
    return e.buffers[e.logits].rows == RowKind::outputs ? true : bad("logits must have 'outputs' rows");
  }

  bool decode_weights(const int32_t* at, int32_t n) {
    if (!e.weights.allocate(n)) return memory();
    uint64_t tail_bytes = 0;
    for (int32_t i = 0; i < n; i += 1, at += kWeightWords) {
      if (!in_range(at[0], 0, 4, "weight kind") || !in_range(at[1], 1, kMaxWidth, "weight rows") ||
          !in_range(at[2], 1, kMaxWidth, "weight columns") || !in_range(at[3], 0, 2, "weight dtype") ||
          !in_range(at[8], 1, at[0] == (int32_t)WeightKind::grouped ? kMaxExperts : 1, "experts"))
        return false;
      Weight& w = e.weights[i];
      w.kind = (WeightKind)at[0];
      w.rows = at[1];
      w.columns = at[2];
      w.dtype = (Dense)at[3];
      w.scale = float_of(at[5]);
      w.experts = at[8];
      uint64_t byte_rows = w.rows, size = 0;
      if (w.kind == WeightKind::ternary) {
        byte_rows = (w.rows + 3) / 4;
        size = byte_rows * w.columns;
        if (!finite(w.scale) || !(w.scale > 0)) return bad("weight ", i, ": scale must be finite and above 0");
      } else if (w.kind == WeightKind::dense) {
        size = (uint64_t)w.rows * w.columns * element_bytes(w.dtype);
      } else if (w.kind == WeightKind::int8) {
        size = (uint64_t)w.rows * w.columns;
        w.row_scale = floats(at[6], w.rows, "row scales");
        if (!w.row_scale) return false;
      } else if (w.kind == WeightKind::grouped) {
        if (w.columns > kMaxColumns) return bad("weight ", i, " has ", w.columns, " columns, at most ", kMaxColumns);
        if (!group(at[7], w.columns)) return false;
        w.group = at[7];
        if (w.dtype == Dense::bf16) return bad("weight ", i, ": scales are f32 or f16");
        size = (uint64_t)(all_units(w) * panel_bytes(w.columns));
        w.scales = blob(at[6], (uint64_t)(w.experts * expert_scale_bytes(w)), "scales");
        if (!w.scales) return false;
        if ((uintptr_t)w.scales % element_bytes(w.dtype)) return bad("weight ", i, ": scales are not aligned");
      } else if (w.rows != 1) {
        return bad("weight ", i, ": a vector has one row");
      }
      w.bytes = w.kind == WeightKind::vector ? (const uint8_t*)floats(at[4], w.columns, "vector")
                                             : blob(at[4], size, "weight bytes");
      if (!w.bytes) return false;
      if (w.kind == WeightKind::ternary || w.kind == WeightKind::int8) {
        if (w.columns > kMaxColumns) return bad("weight ", i, " has ", w.columns, " columns, at most ", kMaxColumns);
        w.tail_first = first_tail_row(byte_rows, w.columns);
        tail_bytes += (byte_rows - w.tail_first) * w.columns + 64;
      }
    }
    if (!e.tails.allocate(tail_bytes)) return memory();
    uint64_t used = 0;
    for (int32_t i = 0; i < n; i += 1) {
      Weight& w = e.weights[i];
      if (w.kind != WeightKind::ternary && w.kind != WeightKind::int8) continue;
      const uint64_t byte_rows = w.kind == WeightKind::ternary ? (w.rows + 3) / 4 : w.rows;
      const uint64_t bytes = (byte_rows - w.tail_first) * w.columns;
      uint8_t* to = e.tails.data + used;
      copy_bytes(to, w.bytes + w.tail_first * w.columns, bytes);
      w.tail = to;
      used += bytes + 64;
    }
    return true;
  }

  bool matmul(const Product& p, WeightKind kind, BufferType codes) {
    if (!weight(p.weight, kind, "weight")) return false;
    const Weight& m = e.weights[p.weight];
    if (!buffer(p.x, codes, (int32_t)m.columns, "codes") || !floats_of(p.scale, 1, "scale") ||
        !floats_of(p.out, (int32_t)m.rows, "out"))
      return false;
    if (kind == WeightKind::grouped && e.buffers[p.x].group != m.group)
      return bad("codes have sums of ", e.buffers[p.x].group, " columns, the matrix groups of ", m.group);
    return same_rows(p.x, p.scale, "codes") && distinct(p.scale, p.out);
  }
  bool one_matrix(int32_t weight) {
    return e.weights[weight].experts == 1 ? true : bad("weight ", weight, " has ", e.weights[weight].experts, " experts");
  }

  /** An i32 buffer of the program's choices among n experts. */
  bool experts(int32_t id, int64_t n) {
    if (e.choices == 0) return bad("the program has no choices");
    if (!buffer(id, BufferType::i32, e.choices, "experts") || !token_rows(id, "experts")) return false;
    Buffer& b = e.buffers[id];
    if (b.experts != 0 && b.experts != n) return bad("buffer ", id, " chooses among ", b.experts, " experts, not ", n);
    b.experts = (int32_t)n;
    return true;
  }

  bool vector(int32_t id, int64_t n, const char* what) {
    if (!weight(id, WeightKind::vector, what)) return false;
    return e.weights[id].columns == n ? true : bad(what, ": weight ", id, " has ", e.weights[id].columns, " elements, must have ", n);
  }

  bool product(const Product& p, WeightKind kind, BufferType codes) {
    return matmul(p, kind, codes) && one_matrix(p.weight) && same_rows(p.x, p.out, "codes");
  }

  bool embed(int32_t table, int32_t out, WeightKind kind) {
    if (!weight(table, kind, "table")) return false;
    const Weight& w = e.weights[table];
    if (w.rows < e.vocab) return bad("table has ", w.rows, " rows for ", e.vocab, " tokens");
    if (!one_matrix(table)) return false;
    return floats_of(out, (int32_t)w.columns, "out") && token_rows(out, "out");
  }

  bool quantize(const op::Quantize& f, BufferType codes) {
    return floats_of(f.x, 0, "x") && buffer(f.codes, codes, e.buffers[f.x].width, "codes") && floats_of(f.scale, 1, "scale") &&
           same_rows(f.x, f.codes, "x") && same_rows(f.x, f.scale, "x") && distinct(f.x, f.scale) &&
           in_range(e.buffers[f.x].width, 1, kMaxColumns, "width of x");
  }

  /** Ids of buffers and weights exist. */
  bool check_ids(const Op& o) {
    const OpShape& shape = kOpShapes[(int)o.kind];
    for (int32_t i = 0; i < shape.words; i += 1) {
      const int64_t size = shape.fields[i] == 'b'   ? (int64_t)e.buffers.size
                           : shape.fields[i] == 'w' ? (int64_t)e.weights.size
                                                    : -1;
      if (size < 0 || (o.words[i] >= 0 && o.words[i] < size)) continue;
      return bad(shape.fields[i] == 'b' ? "buffer " : "weight ", o.words[i], " of ", size);
    }
    return true;
  }

  bool check_op() {
    const Op& o = e.ops[op];
    if (!check_ids(o)) return false;
    switch (o.kind) {
      case OpKind::embed: {
        const auto f = o.as<op::Embed>();
        return embed(f.table, f.out, WeightKind::dense);
      }
      case OpKind::embed_grouped: {
        const auto f = o.as<op::EmbedGrouped>();
        return embed(f.table, f.out, WeightKind::grouped);
      }
      case OpKind::rms_norm: {
        const auto f = o.as<op::RmsNorm>();
        if (!weight(f.weight, WeightKind::vector, "weight")) return false;
        const int32_t n = (int32_t)e.weights[f.weight].columns;
        return floats_of(f.x, n, "x") && floats_of(f.out, n, "out") && same_rows(f.x, f.out, "x");
      }
      case OpKind::rms_norm_heads: {
        const auto f = o.as<op::RmsNormHeads>();
        if (!weight(f.weight, WeightKind::vector, "weight") || !in_range(f.heads, 1, kMaxHeads, "heads") ||
            !in_range(f.head_dim, 1, kMaxHeadDim, "headDim"))
          return false;
        if (e.weights[f.weight].columns != f.head_dim) return bad("weight is not headDim ", f.head_dim, " long");
        const int32_t n = f.heads * f.head_dim;
        return floats_of(f.x, n, "x") && floats_of(f.out, n, "out") && same_rows(f.x, f.out, "x");
      }
      case OpKind::quantize:
        return quantize(o.as<op::Quantize>(), BufferType::i8);
      case OpKind::quantize16:
        return quantize(o.as<op::Quantize>(), BufferType::i16);
      case OpKind::ternary_matmul:
        return product(product_of(o), WeightKind::ternary, BufferType::i8);
      case OpKind::int8_matmul:
        return product(product_of(o), WeightKind::int8, BufferType::i8);
      case OpKind::grouped_matmul:
        return product(product_of(o), WeightKind::grouped, BufferType::i16);
      case OpKind::rope: {
        const auto f = o.as<op::Rope>();
        if (!in_range(f.heads, 1, kMaxHeads, "heads")) return false;
        if (!in_range(f.head_dim, e.rotary_dim, kMaxHeadDim, "headDim")) return false;
        return floats_of(f.x, f.heads * f.head_dim, "x") && token_rows(f.x, "x");
      }
      case OpKind::kv_append: {
        const auto f = o.as<op::KvAppend>();
        const int32_t width = e.kv_heads * e.head_dim;
        return in_range(f.layer, 0, e.layers - 1, "layer") && floats_of(f.k, width, "k") && floats_of(f.v, width, "v") &&
               token_rows(f.k, "k") && token_rows(f.v, "v");
      }
      case OpKind::attention: {
        const auto f = o.as<op::Attention>();
        if (!in_range(f.layer, 0, e.layers - 1, "layer") || !in_range(f.heads, 1, kMaxHeads, "heads")) return false;
        if (f.kv_heads != e.kv_heads || f.head_dim != e.head_dim) return bad("kvHeads and headDim differ from the cache's");
        if (f.heads % f.kv_heads) return bad("heads ", f.heads, " is not a multiple of kvHeads ", f.kv_heads);
        const int32_t width = f.heads * f.head_dim;
        e.heads_per_kv = f.heads / f.kv_heads;
        if (e.heads_per_kv > e.most_queries) e.most_queries = e.heads_per_kv;
        return floats_of(f.q, width, "q") && floats_of(f.out, width, "out") && token_rows(f.q, "q") &&
               token_rows(f.out, "out") && distinct(f.q, f.out);
      }
      case OpKind::gated_activation: {
        const auto f = o.as<op::GatedActivation>();
        if (!in_range(f.fn, 0, 3, "fn") || !floats_of(f.gate, 0, "gate")) return false;
        if (f.fn == kClampedSilu && !(f.limit > 0)) return bad("the limit must be above 0");
        const int32_t n = e.buffers[f.gate].width;
        return floats_of(f.up, n, "up") && floats_of(f.out, n, "out") && same_rows(f.gate, f.up, "gate") &&
               same_rows(f.gate, f.out, "gate");
      }
      case OpKind::add: {
        const auto f = o.as<op::Add>();
        return floats_of(f.x, 0, "x") && floats_of(f.y, e.buffers[f.x].width, "y") && same_rows(f.x, f.y, "x");
      }
      case OpKind::select_outputs: {
        const auto f = o.as<op::SelectOutputs>();
        if (!floats_of(f.x, 0, "x") || !floats_of(f.out, e.buffers[f.x].width, "out") || !token_rows(f.x, "x")) return false;
        return e.buffers[f.out].rows == RowKind::outputs ? true : bad("out must have 'outputs' rows");
      }
      case OpKind::dense_matmul: {
        const auto f = o.as<op::DenseMatmul>();
        if (!weight(f.weight, WeightKind::dense, "weight")) return false;
        const Weight& w = e.weights[f.weight];
        return floats_of(f.x, (int32_t)w.columns, "x") && floats_of(f.out, (int32_t)w.rows, "out") &&
               same_rows(f.x, f.out, "x") && distinct(f.x, f.out);
      }
      case OpKind::count_trits: {
        const auto f = o.as<op::CountTrits>();
        return floats_of(f.x, 0, "x") && token_rows(f.x, "x") && in_range(f.index, 0, e.trace_points - 1, "index");
      }
      case OpKind::hadamard: {
        const auto f = o.as<op::Hadamard>();
        if (!floats_of(f.x, 0, "x") || !in_range(f.block, 2, kMaxBlock, "block") || !in_range(f.direction, 0, 1, "direction") ||
            !in_range(f.key_heads, 0, kMaxHeads, "keyHeads"))
          return false;
        const int32_t n = e.buffers[f.x].width;
        if (f.block & (f.block - 1) || n % f.block) return bad("block ", f.block, " is no power of two that divides ", n);
        if (f.key_heads > 0) {
          if (!in_range(f.head_dim, 1, kMaxHeadDim, "headDim") || !distinct(f.x, f.out)) return false;
          if (f.direction != 0) return bad("heads are moved forward only");
          if (n % (f.key_heads * f.head_dim)) return bad(f.key_heads, " heads of ", f.head_dim, " do not divide ", n);
        }
        if (!vector(f.signs, n, "signs")) return false;
        const float* signs = (const float*)e.weights[f.signs].bytes;
        for (int32_t i = 0; i < n; i += 1)
          if (signs[i] != 1.0f && signs[i] != -1.0f) return bad("sign ", i, " is neither 1 nor -1");
        return floats_of(f.out, n, "out") && same_rows(f.x, f.out, "x");
      }
      case OpKind::split_heads: {
        const auto f = o.as<op::SplitHeads>();
        if (!in_range(f.heads, 1, kMaxHeads, "heads") || !in_range(f.head_dim, 1, kMaxHeadDim, "headDim")) return false;
        const int32_t n = f.heads * f.head_dim;
        return floats_of(f.x, 2 * n, "x") && floats_of(f.first, n, "first") && floats_of(f.second, n, "second") &&
               same_rows(f.x, f.first, "x") && same_rows(f.x, f.second, "x") && distinct(f.x, f.first) &&
               distinct(f.x, f.second) && distinct(f.first, f.second);
      }
      case OpKind::causal_conv: {
        const auto f = o.as<op::CausalConv>();
        if (!in_range(f.taps, 1, (int32_t)kMaxTaps, "taps") || !floats_of(f.x, 0, "x")) return false;
        const int64_t n = e.buffers[f.x].width;
        return vector(f.weight, f.taps * n, "weight") && floats_of(f.out, (int32_t)n, "out") && token_rows(f.x, "x") &&
               token_rows(f.out, "out") && distinct(f.x, f.out) && state(f.state, (f.taps - 1) * n, (f.taps - 1) * n);
      }
      case OpKind::l2_norm_heads: {
        const auto f = o.as<op::L2NormHeads>();
        if (!floats_of(f.x, 0, "x") || !in_range(f.heads, 1, kMaxHeads, "heads") ||
            !in_range(f.head_dim, 1, kMaxHeadDim, "headDim"))
          return false;
        return in_range(f.offset, 0, e.buffers[f.x].width - f.heads * f.head_dim, "offset");
      }
      case OpKind::gated_delta: {
        const auto f = o.as<op::GatedDelta>();
        if (!in_range(f.key_heads, 1, kMaxHeads, "keyHeads") || !in_range(f.value_heads, 1, kMaxHeads, "valueHeads") ||
            !in_range(f.head_dim, 1, kMaxHeadDim, "headDim") || !in_range(f.order, 0, 1, "order"))
          return false;
        if (f.value_heads % f.key_heads) return bad("valueHeads ", f.value_heads, " is not a multiple of keyHeads ", f.key_heads);
        const int64_t D = f.head_dim;
        return floats_of(f.x, (2 * f.key_heads + f.value_heads) * f.head_dim, "x") && floats_of(f.beta, f.value_heads, "beta") &&
               floats_of(f.alpha, f.value_heads, "alpha") && floats_of(f.out, f.value_heads * f.head_dim, "out") &&
               vector(f.decay, f.value_heads, "decay") && vector(f.bias, f.value_heads, "bias") && token_rows(f.x, "x") &&
               token_rows(f.beta, "beta") && token_rows(f.alpha, "alpha") && token_rows(f.out, "out") && distinct(f.x, f.out) &&
               distinct(f.beta, f.out) && distinct(f.alpha, f.out) &&
               state(f.state, f.value_heads * D * D, f.value_heads * delta_floats(D));
      }
      case OpKind::route_experts: {
        const auto f = o.as<op::RouteExperts>();
        if (!floats_of(f.x, 0, "x") || !token_rows(f.x, "x")) return false;
        const int32_t n = e.buffers[f.x].width;
        return experts(f.experts, n) && in_range(n, e.choices, kMaxExperts, "number of experts") &&
               floats_of(f.weights, e.choices, "weights") && token_rows(f.weights, "weights") && distinct(f.x, f.weights);
      }
      case OpKind::expert_matmul: {
        const auto f = o.as<op::ExpertMatmul>();
        const Product p = product_of(o);
        if (!matmul(p, WeightKind::grouped, BufferType::i16) || !experts(f.experts, e.weights[p.weight].experts)) return false;
        if (e.buffers[p.x].rows == RowKind::outputs) return bad("codes: buffer ", p.x, " counts outputs");
        return choice_rows(p.out, "out");
      }
      case OpKind::add_experts: {
        const auto f = o.as<op::AddExperts>();
        return floats_of(f.x, 0, "x") && floats_of(f.y, e.buffers[f.x].width, "y") && token_rows(f.x, "x") &&
               choice_rows(f.y, "y") && floats_of(f.weights, e.choices, "weights") && token_rows(f.weights, "weights") &&
               distinct(f.x, f.weights);
      }
    }
    return false;
  }

  bool decode_ops(const int32_t* at, int32_t n, int32_t n_words) {
    if (!e.ops.allocate(n) || !e.splits.allocate(n) || !e.stages.allocate(2 * (uint64_t)n + 1)) return memory();
    const int32_t* end = at + n_words;
    for (int32_t i = 0; i < n; i += 1) {
      op = -1;
      if (at == end) return bad("the words end before operation ", i);
      if (!in_range(at[0], 0, kOpKinds - 1, "operation code")) return false;
      const int32_t size = kOpShapes[at[0]].words;
      if (end - at < size + 1) return bad("the words end in operation ", i);
      e.ops[i].kind = (OpKind)at[0];
      copy_bytes(e.ops[i].words, at + 1, (uint64_t)size * 4);
      at += size + 1;
      op = i;
      if (!check_op()) return false;
      count_work(e.ops[i]);
      stage(i);
    }
    op = -1;
    e.stages[e.stage_count++] = Stage{StageKind::top, RowKind::outputs, n, n, 0};
    return at == end ? true : bad((int64_t)(end - at), " words behind the last operation");
  }

  void count_work(const Op& o) {
    int64_t need = 0;
    if (o.kind == OpKind::route_experts) {
      need = (int64_t)e.buffers[o.as<op::RouteExperts>().x].width * 4;
    } else if (o.kind == OpKind::causal_conv) {
      e.macs_per_row += e.weights[o.as<op::CausalConv>().weight].columns;
    } else if (o.kind == OpKind::gated_delta) {
      const auto f = o.as<op::GatedDelta>();
      e.macs_per_row += 4 * (int64_t)f.value_heads * f.head_dim * f.head_dim;
    } else if (reads_matrix(o.kind)) {
      const Weight& w = e.weights[product_of(o).weight];
      const bool choices = o.kind == OpKind::expert_matmul;
      e.macs_per_row += w.rows * w.columns * (choices ? e.choices : 1);
      if (w.kind == WeightKind::ternary) need = e.k->ternary_scratch(w.columns);
      if (w.kind == WeightKind::grouped) need = e.k->grouped_scratch(w.columns, w.group);
      if (choices) {
        const int64_t row = planes_stride(w.columns, w.group) + w.rows * 4, fit = kExpertBytes / row;
        e.expert_rows = fit < 1 ? 1 : fit < e.expert_rows ? fit : e.expert_rows;
        need = round_up(need, 64) + e.expert_rows * row;
      }
    }
    if (need > e.scratch_bytes) e.scratch_bytes = round_up(need, 64);
  }

  // Stages: operations that need no barrier between them. A run of operations that each touch only their own row is
  // one stage whose items are rows; matrix products that do not read one another's outputs are one stage whose items
  // are chunks of all of them.
  RowKind rows_of(const Op& o) const {
    switch (o.kind) {
      case OpKind::select_outputs: return RowKind::outputs;
      case OpKind::gated_activation: return e.buffers[o.as<op::GatedActivation>().gate].rows;
      // Their first word is x.
      case OpKind::rms_norm: case OpKind::rms_norm_heads: case OpKind::quantize: case OpKind::quantize16: case OpKind::add:
      case OpKind::hadamard: case OpKind::split_heads: case OpKind::l2_norm_heads:
        return e.buffers[o.words[0]].rows;
      default: return RowKind::tokens;
    }
  }
  static bool reads(const Product& p, int32_t buffer) { return p.x == buffer || p.scale == buffer; }
  bool joins(const Stage& s, const Op& o) const {
    // Finding an item's operation is a walk over the stage's.
    if (s.last - s.first >= 8) return false;
    const Product mine = product_of(o);
    for (int32_t i = s.first; i < s.last; i += 1) {
      const Product p = product_of(e.ops[i]);
      if (p.out == mine.out || reads(mine, p.out) || reads(p, mine.out)) return false;
    }
    return true;
  }
  static StageKind stage_kind(OpKind kind) {
    if (is_product(kind)) return StageKind::matmul;
    switch (kind) {
      case OpKind::attention: return StageKind::attention;
      case OpKind::causal_conv: return StageKind::conv;
      case OpKind::gated_delta: return StageKind::delta;
      case OpKind::expert_matmul: return StageKind::experts;
      default: return StageKind::rows;
    }
  }
  /** The buffer whose choices are grouped, or -1. */
  int32_t grouped = -1;
  void stage(int32_t i) {
    const Op& o = e.ops[i];
    const StageKind kind = stage_kind(o.kind);
    const RowKind rows = rows_of(o);
    if (kind == StageKind::experts && grouped != o.as<op::ExpertMatmul>().experts) {
      grouped = o.as<op::ExpertMatmul>().experts;
      e.stages[e.stage_count++] = Stage{StageKind::group, RowKind::tokens, i, i + 1, 1};
    }
    // Without items unless the keys are shared out.
    if (kind == StageKind::attention) e.stages[e.stage_count++] = Stage{StageKind::scores, rows, i, i + 1, 0};
    if (o.kind == OpKind::route_experts && grouped == o.as<op::RouteExperts>().experts) grouped = -1;
    if (e.stage_count > 0) {
      Stage& last = e.stages[e.stage_count - 1];
      const bool products = kind == StageKind::matmul || kind == StageKind::experts;
      if (last.kind == kind && ((kind == StageKind::rows && last.rows == rows) || (products && joins(last, o)))) {
        last.last = i + 1;
        return;
      }
    }
    e.stages[e.stage_count++] = Stage{kind, rows, i, i + 1, 0};
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Sequences

Sequence* find(const Engine* e, int32_t id) {
  if (id < 0 || (uint64_t)id >= e->sequences.size || !e->sequences[id].used) return nullptr;
  return &const_cast<Engine*>(e)->sequences[id];
}

uint64_t block_bytes(const Engine* e, int kind) { return sizeof(KvBlock) + (uint64_t)e->caches[kind].block_floats * 4; }

/** With what an earlier sequence left in it, or zeros: what lies past a sequence's length is never read for its value. */
float* new_block(Engine* e, int kind) {
  int32_t& spare = e->spare_count[kind];
  KvBlock* block = spare > 0 ? block_of(e->spare[kind][--spare]) : (KvBlock*)host_alloc(block_bytes(e, kind));
  if (!block) return nullptr;
  block->owners = 1;
  e->kv_bytes += block_bytes(e, kind);
  return block->floats();
}
/** Leaves a null pointer. */
void drop_block(Engine* e, int kind, float*& floats) {
  KvBlock* block = floats ? block_of(floats) : nullptr;
  floats = nullptr;
  if (!block) return;
  block->owners -= 1;
  if (block->owners > 0) return;
  const uint64_t bytes = block_bytes(e, kind);
  e->kv_bytes -= bytes;
  int32_t& spare = e->spare_count[kind];
  if ((uint64_t)(spare + 1) * bytes <= kSpareBytes && e->spare[kind].grow(kSpareBytes / bytes))
    e->spare[kind][spare++] = block->floats();
  else
    host_free(block, bytes);
}

int64_t blocks_for(int64_t length) { return (length + kBlock - 1) / kBlock; }

void drop_state(Engine* e, Sequence& s) {
  e->state_bytes -= s.state.size * 4;
  s.state.release();
}
bool need_state(Engine* e, Sequence& s) {
  if (e->state_floats == 0 || s.state.size) return true;
  if (!s.state.allocate((uint64_t)e->state_floats)) return false;
  e->state_bytes += s.state.size * 4;
  return true;
}

/** Drops what no position below `length` needs. */
void trim(Engine* e, Sequence& s, int64_t length) {
  for (int kind = 0; kind < kCaches; kind += 1)
    for (uint64_t b = blocks_for(length); b < s.blocks[kind].size; b += 1) drop_block(e, kind, s.blocks[kind][b]);
  if (length > 0) return;
  s.kept = 0;
  drop_state(e, s);
}

/** Drops what no window sees any more. */
void forget_unseen(Engine* e, Sequence& s) {
  const Cache& cache = e->caches[kWindowed];
  const int64_t first = s.length - cache.window + 1;
  if (cache.layers == 0 || first <= 0) return;
  for (; s.kept < first / kBlock; s.kept += 1) drop_block(e, kWindowed, s.blocks[kWindowed][s.kept]);
}

int64_t rewind_limit(const Engine* e, const Sequence& s) {
  if (e->states.size) return s.length;
  return s.kept == 0 ? 0 : s.kept * kBlock + e->caches[kWindowed].window - 1;
}
bool can_rewind(const Engine* e, const Sequence& s, int32_t length, const char* what, Failure* f) {
  if (length < 0 || length > s.length) return fail(f, Status::bad_sequence, -1, what, length, " of ", s.length);
  const int64_t limit = rewind_limit(e, s);
  if (length == 0 || length >= limit) return true;
  return fail(f, Status::bad_sequence, -1, what, length, " of ", s.length, ": what is needed there exists from ", limit, " on");
}

/** Makes positions [from, to) writable: they exist and no fork shares them. */
bool reserve(Engine* e, Sequence& s, int64_t from, int64_t to) {
  const uint64_t need = blocks_for(to);
  for (int kind = 0; kind < kCaches; kind += 1) {
    if (e->caches[kind].layers == 0) continue;
    Array<float*>& blocks = s.blocks[kind];
    if (need > blocks.size) {
      const uint64_t grown = blocks.size * 2 > 8 ? blocks.size * 2 : 8;
      if (!blocks.grow(grown > need ? grown : need)) return false;
    }
    for (uint64_t b = from / kBlock; b < need; b += 1) {
      float*& block = blocks[b];
      if (block && block_of(block)->owners == 1) continue;
      float* fresh = new_block(e, kind);
      if (!fresh) return false;
      if (block) copy_bytes(fresh, block, (uint64_t)e->caches[kind].block_floats * 4);
      drop_block(e, kind, block);
      block = fresh;
    }
  }
  return need_state(e, s);
}

// ---------------------------------------------------------------------------------------------------------------------
// Steps

bool check_step(Engine* e, const Step& s, Failure* f) {
  const auto bad = [&](auto... args) { return fail(f, Status::bad_step, -1, args...); };
  if (s.rows < 1 || s.rows > kMaxRows) return bad("a step has ", s.rows, " rows, must have 1..", kMaxRows);
  if (s.outputs < 0 || s.outputs > s.rows) return bad(s.outputs, " output rows of ", s.rows);
  if (s.top < 0 || s.top > kMaxTop || s.top > e->vocab) return bad("the ", s.top, " largest logits of ", e->vocab);
  if (!e->runs.grow(s.rows) || !e->group_first.grow((uint64_t)s.rows + 1))
    return fail(f, Status::out_of_memory, -1, "not enough memory for ", s.rows, " rows");
  e->run_count = 0;
  for (int32_t t = 0; t < s.rows; t += 1) {
    if (s.tokens[t] < 0 || s.tokens[t] >= e->vocab) return bad("token ", s.tokens[t], " of row ", t, " is not below ", e->vocab);
    const Sequence* seq = find(e, s.sequences[t]);
    if (!seq) return bad("sequence ", s.sequences[t], " of row ", t, " does not exist");
    if (s.positions[t] < 0 || s.positions[t] >= e->context)
      return bad("position ", s.positions[t], " of row ", t, " is not below ", e->context);
    if (t > 0 && s.sequences[t] == s.sequences[t - 1]) {
      if (s.positions[t] != s.positions[t - 1] + 1) return bad("row ", t, ": positions of a sequence must be consecutive");
      e->runs[e->run_count - 1].rows += 1;
      continue;
    }
    if (s.positions[t] != seq->length)
      return bad("row ", t, ": sequence ", s.sequences[t], " continues at ", seq->length, ", not at ", s.positions[t]);
    for (int32_t r = 0; r < e->run_count; r += 1)
      if (e->runs[r].sequence == s.sequences[t]) return bad("rows of sequence ", s.sequences[t], " are not contiguous");
    e->runs[e->run_count++] = Run{t, 1, s.sequences[t]};
  }
  for (int32_t i = 0; i < s.outputs; i += 1) {
    const int32_t r = s.output_rows[i];
    if (r < 0 || r >= s.rows || (i > 0 && r <= s.output_rows[i - 1])) return bad("output rows must increase and be below ", s.rows);
  }
  return true;
}

/** Activation buffers for the rows of this step; logits go straight to the caller who wants them. */
bool reserve_buffers(Engine* e, const Step& s) {
  if (s.rows > e->row_capacity || s.outputs > e->output_capacity) {
    const int32_t rows = s.rows > e->row_capacity ? s.rows : e->row_capacity;
    const int32_t outputs = s.outputs > e->output_capacity ? s.outputs : e->output_capacity;
    const auto count_of = [&](const Buffer& b) {
      return b.rows == RowKind::outputs ? (uint64_t)outputs : (uint64_t)rows * (b.rows == RowKind::choices ? e->choices : 1);
    };
    uint64_t total = 0;
    for (uint64_t i = 0; i < e->buffers.size; i += 1) {
      if ((int32_t)i == e->logits) continue;
      const Buffer& b = e->buffers[i];
      total += round_up(b.row_bytes * count_of(b) + 64, 64);
    }
    e->arena.release();
    e->row_capacity = e->output_capacity = 0;
    if (!e->arena.allocate(total)) return false;
    e->row_capacity = rows;
    e->output_capacity = outputs;
    uint64_t used = 0;
    for (uint64_t i = 0; i < e->buffers.size; i += 1) {
      Buffer& b = e->buffers[i];
      if ((int32_t)i == e->logits) continue;
      b.data = e->arena.data + used;
      used += round_up(b.row_bytes * count_of(b) + 64, 64);
    }
  }
  const uint64_t own = s.logits ? 0 : (uint64_t)s.outputs * (uint64_t)e->vocab;
  if (own > e->own_logits.size && !e->own_logits.allocate(own)) return false;
  e->buffers[e->logits].data = (uint8_t*)(s.logits ? s.logits : e->own_logits.data);
  return true;
}

bool reserve_scratch(Engine* e, int64_t longest) {
  // Score rows start at different cache sets.
  const int64_t stride = round_up(longest, 32) + 16;
  if (e->scratch.size == 0 || stride > e->score_stride) {
    // Grows by doubling: a generation lengthens by one position a step.
    const int64_t grown = stride > 2 * e->score_stride ? stride : 2 * e->score_stride;
    e->scratch.release();
    e->score_stride = grown;
    e->scratch_stride = round_up(e->scratch_bytes + kQueries * grown * 4, 64) + 64;
    if (!e->scratch.allocate((uint64_t)e->scratch_stride * e->threads)) {
      e->score_stride = 0;
      return false;
    }
  }
  return true;
}

const Weight& matmul_weight(const Engine* e, const Op& o) {
  return e->weights[product_of(o).weight];
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/** Chunks of a matrix product: token blocks x row chunks. */
Split split_matmul(const Engine* e, const Op& o, int64_t T) {
  if (T == 0) return Split{0, 1, 1};
  const Weight& w = matmul_weight(e, o);
  const bool ternary = w.kind == WeightKind::ternary;
  const int64_t units = units_of(w);
  const int64_t block = token_block_of(*e->k, w.columns), blocks = divide_up(T, block);
  const int64_t tokens = T < block ? T : block;
  int64_t bytes = kChunkBytes;
  if (tokens >= 8) {
    // More tokens are more work for the same bytes.
    bytes /= tokens / 4;
  } else {
    const int64_t part = units * unit_bytes(w) / (kChunksPerThread * e->threads);
    bytes = part < bytes ? bytes : part < kMostChunkBytes ? part : kMostChunkBytes;
  }
  int64_t chunk = bytes / unit_bytes(w);
  // Every thread gets several chunks, so that the last ones level out.
  const int64_t most = units / (4 * e->threads);
  if (e->threads > 1 && chunk > most) chunk = most;
  // Whole tiles of the matrix-matrix kernels; a few tokens are multiplied row by row.
  const int64_t tile = w.kind == WeightKind::grouped ? 1 : ternary && tokens > 4 ? e->k->tile_rows : 4;
  chunk = chunk < tile ? tile : chunk / tile * tile;
  const int64_t chunks = divide_up(units, chunk);
  return Split{(int32_t)(chunks * blocks), (int32_t)chunks, (int32_t)chunk};
}

/**
 * Items of an operation along sequences: some channels (convolution) or value dimensions (delta rule) of one run, or of one
 * of its heads. Heads are only divided where there are few for the threads.
 */
Split split_along_sequence(const Engine* e, const Op& o) {
  const int64_t few = e->threads == 1 ? 1 : 4 * e->threads;
  if (o.kind == OpKind::causal_conv) {
    const int64_t C = e->buffers[o.as<op::CausalConv>().x].width;
    int64_t chunk = round_up(divide_up(C, divide_up(few, e->run_count)), kLanes);
    chunk = chunk < 64 ? 64 : chunk < kMostChannels ? chunk : kMostChannels;
    const int64_t chunks = divide_up(C, chunk);
    return Split{(int32_t)(e->run_count * chunks), (int32_t)chunks, (int32_t)chunk};
  }
  const auto f = o.as<op::GatedDelta>();
  const int64_t heads = (int64_t)e->run_count * f.value_heads, D = f.head_dim;
  // No fewer dimensions than a kernel takes at a time.
  const int64_t chunk = heads >= few ? D : round_up(divide_up(D, divide_up(few, heads)), 64);
  const int64_t chunks = divide_up(D, chunk);
  return Split{(int32_t)(heads * chunks), (int32_t)chunks, (int32_t)chunk};
}

void note_failure(Engine* e, int32_t op) {
  int32_t seen = __atomic_load_n(&e->failed_op, __ATOMIC_RELAXED);
  while (op < seen && !__atomic_compare_exchange_n(&e->failed_op, &seen, op, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

void count(uint64_t& counter) { __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED); }

void run_row_op(Engine* e, int32_t index, int64_t row, int32_t thread) {
  const Op& o = e->ops[index];
  const Kernels& k = *e->k;
  const Step& s = e->step;
  switch (o.kind) {
    case OpKind::embed: {
      const auto f = o.as<op::Embed>();
      const Weight& w = e->weights[f.table];
      const int64_t size = element_bytes(w.dtype);
      k.embed(w.bytes + (int64_t)s.tokens[row] * w.columns * size, w.dtype, w.columns, e->f32(f.out, row));
      break;
    }
    case OpKind::embed_grouped: {
      const auto f = o.as<op::EmbedGrouped>();
      const Weight& w = e->weights[f.table];
      k.embed_grouped(w.bytes, w.scales, w.dtype == Dense::f16, w.columns, w.group, s.tokens[row], e->f32(f.out, row));
      break;
    }
    case OpKind::rms_norm: {
      const auto f = o.as<op::RmsNorm>();
      const Weight& w = e->weights[f.weight];
      k.rms_norm(e->f32(f.x, row), (const float*)w.bytes, f.eps, w.columns, e->f32(f.out, row));
      break;
    }
    case OpKind::rms_norm_heads: {
      const auto f = o.as<op::RmsNormHeads>();
      const float* weight = (const float*)e->weights[f.weight].bytes;
      for (int64_t at = 0; at < (int64_t)f.heads * f.head_dim; at += f.head_dim)
        k.rms_norm(e->f32(f.x, row) + at, weight, f.eps, f.head_dim, e->f32(f.out, row) + at);
      break;
    }
    case OpKind::quantize: {
      const auto f = o.as<op::Quantize>();
      if (!k.quantize(e->f32(f.x, row), e->buffers[f.x].width, e->i8(f.codes, row), e->f32(f.scale, row))) note_failure(e, index);
      break;
    }
    case OpKind::quantize16: {
      const auto f = o.as<op::Quantize16>();
      const Buffer& codes = e->buffers[f.codes];
      if (!k.quantize16(e->f32(f.x, row), codes.width, codes.group, e->planes(f.codes, row), e->f32(f.scale, row)))
        note_failure(e, index);
      break;
    }
    case OpKind::rope: {
      const auto f = o.as<op::Rope>();
      const int64_t at = (int64_t)s.positions[row] * (e->rotary_dim / 2);
      k.rope(e->f32(f.x, row), e->cos + at, e->sin + at, f.heads, f.head_dim, e->rotary_dim);
      break;
    }
    case OpKind::kv_append: {
      const auto f = o.as<op::KvAppend>();
      const int64_t D = e->head_dim, position = s.positions[row];
      const Layer& layer = e->layer_table[f.layer];
      float* block = e->sequences[s.sequences[row]].blocks[layer.cache][position / kBlock] + layer.at;
      const float* key = e->f32(f.k, row);
      const float* value = e->f32(f.v, row);
      for (int64_t h = 0; h < e->kv_heads; h += 1) {
        float* v_head = block + e->kv_heads * k_head_floats(D) + h * v_head_floats(D);
        k.kv_append(key + h * D, value + h * D, D, position % kBlock, block + h * k_head_floats(D), v_head);
      }
      break;
    }
    case OpKind::gated_activation: {
      const auto f = o.as<op::GatedActivation>();
      const float* gate = e->f32(f.gate, row);
      const float* up = e->f32(f.up, row);
      const int64_t n = e->buffers[f.gate].width;
      float* out = e->f32(f.out, row);
      if (f.fn == kRelu2) k.relu2(gate, up, n, out);
      else if (f.fn == kSilu) k.silu(gate, up, n, out);
      else if (f.fn == kSigmoid) k.hybrid.sigmoid(gate, up, n, out);
      else k.hybrid.clamped_silu(gate, up, f.limit, n, out);
      break;
    }
    case OpKind::hadamard: {
      const auto f = o.as<op::Hadamard>();
      const float* x = e->f32(f.x, row);
      const float* signs = (const float*)e->weights[f.signs].bytes;
      const int64_t n = e->buffers[f.x].width;
      float* out = e->f32(f.out, row);
      if (f.key_heads > 0) {
        const int64_t heads = n / f.head_dim, repeats = heads / f.key_heads;
        for (int64_t h = 0; h < heads; h += 1)
          copy_bytes(out + (h % f.key_heads * repeats + h / f.key_heads) * f.head_dim, x + h * f.head_dim, (uint64_t)f.head_dim * 4);
        x = out;
      }
      k.hybrid.hadamard(x, f.direction == kForward ? signs : nullptr, f.direction == kForward ? nullptr : signs, n, f.block, out);
      break;
    }
    case OpKind::split_heads: {
      const auto f = o.as<op::SplitHeads>();
      const float* x = e->f32(f.x, row);
      const uint64_t bytes = (uint64_t)f.head_dim * 4;
      for (int64_t at = 0; at < (int64_t)f.heads * f.head_dim; at += f.head_dim) {
        copy_bytes(e->f32(f.first, row) + at, x + 2 * at, bytes);
        copy_bytes(e->f32(f.second, row) + at, x + 2 * at + f.head_dim, bytes);
      }
      break;
    }
    case OpKind::l2_norm_heads: {
      const auto f = o.as<op::L2NormHeads>();
      float* x = e->f32(f.x, row) + f.offset;
      for (int64_t h = 0; h < f.heads; h += 1) k.hybrid.l2_norm(x + h * f.head_dim, f.head_dim, f.eps, f.scale);
      break;
    }
    case OpKind::route_experts: {
      const auto f = o.as<op::RouteExperts>();
      float* scratch = (float*)(e->scratch.data + thread * e->scratch_stride);
      if (!k.hybrid.route(e->f32(f.x, row), e->buffers[f.x].width, e->choices, f.least, scratch, e->i32(f.experts, row),
                          e->f32(f.weights, row)))
        note_failure(e, index);
      break;
    }
    case OpKind::add_experts: {
      const auto f = o.as<op::AddExperts>();
      k.hybrid.add_experts(e->f32(f.x, row), e->f32(f.y, row * e->choices), e->f32(f.weights, row), e->choices, e->buffers[f.x].width);
      break;
    }
    case OpKind::add: {
      const auto f = o.as<op::Add>();
      k.add(e->f32(f.x, row), e->f32(f.y, row), e->buffers[f.x].width);
      break;
    }
    case OpKind::select_outputs: {
      const auto f = o.as<op::SelectOutputs>();
      copy_bytes(e->f32(f.out, row), e->f32(f.x, s.output_rows[row]), (uint64_t)e->buffers[f.x].width * 4);
      break;
    }
    case OpKind::count_trits: {
      const auto f = o.as<op::CountTrits>();
      int32_t* counts = s.trit_counts + (row * e->trace_points + f.index) * 3;
      if (s.trace) k.count_trits(e->f32(f.x, row), e->buffers[f.x].width, counts);
      break;
    }
    default:
      break;
  }
}

void run_matmul(Engine* e, int32_t index, int32_t item, int32_t thread) {
  const Op& o = e->ops[index];
  const Product p = product_of(o);
  const Split& split = e->splits[index];
  const Weight& w = e->weights[p.weight];
  const int64_t T = e->rows_of(p.x);
  const int64_t block = token_block_of(*e->k, w.columns), t = item / split.row_chunks * block;
  const int64_t n = T - t < block ? T - t : block;
  const int64_t units = units_of(w);
  const int64_t begin = (int64_t)(item % split.row_chunks) * split.chunk;
  const int64_t end = begin + split.chunk < units ? begin + split.chunk : units;
  uint8_t* scratch = e->scratch.data + thread * e->scratch_stride;
  const int64_t prefetch = e->prefetch[(int)stream_of(w)];
  float* out = e->f32(p.out, t);
  switch (w.kind) {
    case WeightKind::ternary: {
      float* factor = e->factors.data + thread * e->k->token_block;
      for (int64_t i = 0; i < n; i += 1) factor[i] = w.scale / *e->f32(p.scale, t + i);
      count(n == 1 ? e->counters[thread].ternary_vector : e->counters[thread].ternary_matrix);
      e->k->ternary(TernaryArgs{w.bytes, w.tail, w.tail_first, w.columns, w.rows, units, begin, end, e->i8(p.x, t), factor, n,
                                out, scratch, prefetch});
      break;
    }
    case WeightKind::grouped:
      count(n == 1 ? e->counters[thread].grouped_vector : e->counters[thread].grouped_matrix);
      e->k->grouped(GroupedArgs{w.bytes, w.scales, w.dtype == Dense::f16, w.columns, w.rows, w.group, begin, end,
                                e->planes(p.x, t), e->f32(p.scale, t), n, out, scratch, prefetch});
      break;
    case WeightKind::int8:
      count(e->counters[thread].int8);
      e->k->int8(Int8Args{w.bytes, w.tail, w.tail_first, w.row_scale, w.columns, w.rows, begin, end, e->i8(p.x, t),
                          e->f32(p.scale, t), n, out, prefetch});
      break;
    default:
      count(e->counters[thread].dense);
      e->k->dense(DenseArgs{w.bytes, w.dtype, w.columns, w.rows, begin, end, e->f32(p.x, t), n, out, prefetch});
      break;
  }
}

int32_t run_of_group(const Engine* e, int32_t group) {
  int32_t low = 0, high = e->run_count - 1;
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (e->group_first[middle] <= group) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Attention of a sequence to one KV head, without queries. */
AttentionArgs attention_args(const Engine* e, const op::Attention& f, int32_t sequence, int32_t kv_head) {
  const Layer& layer = e->layer_table[f.layer];
  AttentionArgs args{};
  args.blocks = e->sequences[sequence].blocks[layer.cache].data;
  args.k_at = layer.at + kv_head * k_head_floats(e->head_dim);
  args.v_at = layer.at + e->kv_heads * k_head_floats(e->head_dim) + kv_head * v_head_floats(e->head_dim);
  args.D = e->head_dim;
  args.scale = f.scale;
  args.score_stride = e->score_stride;
  return args;
}

void add_query(const Engine* e, const op::Attention& f, int64_t row, int64_t head, AttentionArgs& args) {
  const int64_t end = (int64_t)e->step.positions[row] + 1, window = e->layer_table[f.layer].window;
  args.q[args.queries] = e->f32(f.q, row) + head * e->head_dim;
  args.out[args.queries] = e->f32(f.out, row) + head * e->head_dim;
  args.first[args.queries] = window > 0 && window < end ? end - window : 0;
  args.end[args.queries] = end;
  args.queries += 1;
}

/** Item: one group of rows of one sequence with one KV head. */
void run_attention(Engine* e, int32_t index, int32_t item, int32_t thread) {
  const auto f = e->ops[index].as<op::Attention>();
  const int64_t per_kv = f.heads / e->kv_heads;
  const int32_t kv_head = item % e->kv_heads, group = item / e->kv_heads, at = run_of_group(e, group);
  const Run& run = e->runs[at];
  const int64_t first = run.first + (int64_t)(group - e->group_first[at]) * e->attention_rows;
  const int64_t stop = run.first + run.rows;
  const int64_t last = first + e->attention_rows < stop ? first + e->attention_rows : stop;
  AttentionArgs args = attention_args(e, f, run.sequence, kv_head);
  args.scores = (float*)(e->scratch.data + thread * e->scratch_stride + e->scratch_bytes);
  for (int64_t row = first; row < last; row += 1) {
    for (int64_t h = kv_head * per_kv; h < (kv_head + 1) * per_kv; h += 1) {
      add_query(e, f, row, h, args);
      if (args.queries < kQueries) continue;
      e->k->attention.whole(args);
      args.queries = 0;
    }
  }
  if (args.queries) e->k->attention.whole(args);
  count(e->counters[thread].attention);
}

/** Floats that the parts of one row's attention to a KV head leave for one another: scores, largest ones, totals, sums. */
int64_t shared_floats(const Engine* e) {
  const int64_t blocks = e->score_stride / kBlock + 2;
  return round_up((int64_t)e->most_queries * (e->score_stride + blocks + blocks * (1 + e->head_dim)), 16) + 16;
}

/** A part of the keys that one row sees, with one KV head. */
struct KeyPart {
  AttentionArgs args;
  int32_t pair;      // row and head
  int64_t from, to;  // positions
  float *largest, *own_largest, *totals, *sums;
};

KeyPart key_part(const Engine* e, const op::Attention& f, int32_t item) {
  KeyPart p;
  p.pair = item / e->key_parts;
  // Of so few rows each is a group.
  const int32_t kv_head = p.pair % e->kv_heads, row = p.pair / e->kv_heads, part = item % e->key_parts;
  p.args = attention_args(e, f, e->runs[run_of_group(e, row)].sequence, kv_head);
  const int64_t per_kv = f.heads / e->kv_heads;
  for (int64_t h = kv_head * per_kv; h < (kv_head + 1) * per_kv; h += 1) add_query(e, f, row, h, p.args);
  const int64_t first = p.args.first[0] / kBlock, blocks = divide_up(p.args.end[0], kBlock) - first;
  p.from = (first + blocks * part / e->key_parts) * kBlock;
  p.to = (first + blocks * (part + 1) / e->key_parts) * kBlock;
  const int64_t most = e->score_stride / kBlock + 2;
  p.args.scores = e->shared.data + p.pair * e->shared_stride;
  p.largest = p.args.scores + e->most_queries * e->score_stride;
  p.own_largest = p.largest + part * per_kv;
  p.totals = p.largest + most * e->most_queries;
  p.sums = p.totals + most * e->most_queries;
  return p;
}

void run_scores(Engine* e, int32_t index, int32_t item) {
  const KeyPart p = key_part(e, e->ops[index].as<op::Attention>(), item);
  e->k->attention.scores(p.args, p.from, p.to, p.own_largest);
}

/** After all scores. Whoever ends the last part of a row and head joins them. */
void run_values(Engine* e, int32_t index, int32_t item, int32_t thread) {
  const KeyPart p = key_part(e, e->ops[index].as<op::Attention>(), item);
  const int32_t queries = p.args.queries;
  float largest[kQueries];
  for (int32_t g = 0; g < queries; g += 1) {
    largest[g] = p.largest[g];
    for (int32_t part = 1; part < e->key_parts; part += 1) {
      const float other = p.largest[part * queries + g];
      largest[g] = other > largest[g] ? other : largest[g];
    }
  }
  e->k->attention.values(p.args, p.from, p.to, largest, p.totals, p.sums);
  int32_t& arrived = e->arrivals[p.pair].count;
  if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) < e->key_parts) return;
  __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
  e->k->attention.join(p.args, p.totals, p.sums);
  count(e->counters[thread].attention);
}

/** Into how many parts the keys of each row are divided; `pairs`: rows times KV heads, `longest`: positions. */
int32_t key_parts_of(const Engine* e, int64_t pairs, int64_t longest) {
  const int64_t threads = e->threads, blocks = divide_up(longest, kBlock);
  if (threads == 1 || pairs == 0 || e->attention_rows > 1 || e->step.rows >= 16 || e->most_queries > kQueries) return 1;
  // Short ones are done before another stage were begun; and whole heads may divide evenly enough.
  if (blocks < 4 || 4 * divide_up(pairs, threads) * threads <= 5 * pairs) return 1;
  const int64_t parts = divide_up(4 * threads, pairs);
  return (int32_t)(parts < blocks ? parts : blocks);
}

/** Item: some neighbouring channels of one run. */
void run_conv(Engine* e, int32_t index, int32_t item) {
  const auto f = e->ops[index].as<op::CausalConv>();
  const Split& split = e->splits[index];
  const Run& run = e->runs[item / split.row_chunks];
  const int64_t C = e->buffers[f.x].width, at = (int64_t)(item % split.row_chunks) * split.chunk;
  const int64_t n = C - at < split.chunk ? C - at : split.chunk;
  e->k->hybrid.conv(ConvArgs{e->f32(f.x, run.first) + at, (const float*)e->weights[f.weight].bytes + at,
                             e->sequences[run.sequence].state.data + e->states[f.state].at + at, e->f32(f.out, run.first) + at,
                             run.rows, C, n, f.taps});
}

/** Item: some neighbouring value dimensions of one head of one run. */
void run_delta(Engine* e, int32_t index, int32_t item, int32_t thread) {
  const auto f = e->ops[index].as<op::GatedDelta>();
  const Split& split = e->splits[index];
  const int64_t h = item / split.row_chunks % f.value_heads, D = f.head_dim;
  const Run& run = e->runs[item / split.row_chunks / f.value_heads];
  const int64_t at = (int64_t)(item % split.row_chunks) * split.chunk;
  const int64_t key_head = f.order == kTiled ? h % f.key_heads : h / (f.value_heads / f.key_heads);
  const float* x = e->f32(f.x, run.first);
  DeltaArgs args{};
  args.q = x + key_head * D;
  args.k = x + (f.key_heads + key_head) * D;
  args.v = x + (2 * f.key_heads + h) * D + at;
  args.stride = e->buffers[f.x].width;
  args.beta = e->f32(f.beta, run.first) + h;
  args.alpha = e->f32(f.alpha, run.first) + h;
  args.gate_stride = f.value_heads;
  args.decay = ((const float*)e->weights[f.decay].bytes)[h];
  args.bias = ((const float*)e->weights[f.bias].bytes)[h];
  args.rows = run.rows;
  args.D = D;
  args.columns = D - at < split.chunk ? D - at : split.chunk;
  args.state = e->sequences[run.sequence].state.data + e->states[f.state].at + h * delta_floats(D) + at * D;
  args.out = e->f32(f.out, run.first) + h * D + at;
  args.out_stride = f.value_heads * D;
  e->k->hybrid.delta(args);
  count(e->counters[thread].delta);
}

/** The choices of the step by expert, and what there is to do in the products that follow. */
void group_choices(Engine* e, int32_t stage) {
  const int32_t buffer = e->ops[e->stages[stage].first].as<op::ExpertMatmul>().experts;
  const int32_t experts = e->buffers[buffer].experts, K = e->choices;
  const int64_t rows = e->step.rows;
  int32_t* ends = e->expert_ends.data;
  for (int32_t i = 0; i < experts; i += 1) ends[i] = 0;
  for (int64_t t = 0; t < rows; t += 1)
    for (int32_t i = 0; i < K; i += 1) ends[e->i32(buffer, t)[i]] += 1;
  e->segment_count = 0;
  int32_t first = 0;
  for (int32_t i = 0; i < experts; i += 1) {
    const int32_t n = ends[i];
    for (int32_t at = 0; at < n; at += (int32_t)e->expert_rows) {
      const int32_t left = n - at;
      e->segments[e->segment_count++] = Segment{i, first + at, left < e->expert_rows ? left : (int32_t)e->expert_rows};
    }
    ends[i] = first;
    first += n;
  }
  for (int64_t t = 0; t < rows; t += 1)
    for (int32_t i = 0; i < K; i += 1) e->order[ends[e->i32(buffer, t)[i]]++] = (int32_t)(t * K + i);
  for (int32_t s = stage + 1; s < e->stage_count && e->stages[s].kind != StageKind::group; s += 1) {
    if (e->stages[s].kind != StageKind::experts) continue;
    e->stages[s].items = 0;
    for (int32_t op = e->stages[s].first; op < e->stages[s].last; op += 1) {
      const int64_t units = units_of(matmul_weight(e, e->ops[op]));
      // Whole matrices, so that an expert's rows are gathered once, unless there are too few for the threads.
      const int64_t wanted = e->threads == 1 ? 1 : divide_up(kChunksPerThread * e->threads, e->segment_count);
      const int64_t chunk = divide_up(units, wanted < units ? wanted : units), chunks = divide_up(units, chunk);
      e->splits[op] = Split{(int32_t)(chunks * e->segment_count), (int32_t)chunks, (int32_t)chunk};
      e->stages[s].items += e->splits[op].items;
    }
  }
}

/** Item: some panels of one expert's matrix with rows that chose it. */
void run_expert(Engine* e, int32_t index, int32_t item, int32_t thread) {
  const auto f = e->ops[index].as<op::ExpertMatmul>();
  const Split& split = e->splits[index];
  const Segment& segment = e->segments[item / split.row_chunks];
  const Weight& w = e->weights[f.weight];
  const int64_t units = units_of(w), begin = (int64_t)(item % split.row_chunks) * split.chunk;
  const int64_t end = begin + split.chunk < units ? begin + split.chunk : units;
  const int32_t* order = e->order.data + segment.first;
  const bool per_choice = e->buffers[f.codes].rows == RowKind::choices;
  const auto row_of = [&](int64_t i) { return per_choice ? order[i] : order[i] / e->choices; };
  uint8_t* scratch = e->scratch.data + thread * e->scratch_stride;
  GroupedArgs args{w.bytes + segment.expert * units * unit_bytes(w), w.scales + segment.expert * expert_scale_bytes(w),
                   w.dtype == Dense::f16, w.columns, w.rows, w.group, begin, end, nullptr, nullptr, segment.count, nullptr,
                   scratch, e->prefetch[(int)Stream::grouped]};
  if (segment.count == 1) {
    count(e->counters[thread].grouped_vector);
    args.x = e->planes(f.codes, row_of(0));
    args.scale = e->f32(f.scale, row_of(0));
    args.out = e->f32(f.out, order[0]);
    e->k->grouped(args);
    return;
  }
  count(e->counters[thread].grouped_matrix);
  const int64_t stride = planes_stride(w.columns, w.group);
  float scale[kExpertRows];
  uint8_t* x = scratch + round_up(e->k->grouped_scratch(w.columns, w.group), 64);
  float* out = (float*)(x + segment.count * stride);
  for (int64_t i = 0; i < segment.count; i += 1) {
    copy_bytes(x + i * stride, e->planes(f.codes, row_of(i)), (uint64_t)stride);
    scale[i] = *e->f32(f.scale, row_of(i));
  }
  args.x = x;
  args.scale = scale;
  args.out = out;
  e->k->grouped(args);
  const int64_t from = begin * kGroupedRows, to = end * kGroupedRows < w.rows ? end * kGroupedRows : w.rows;
  for (int64_t i = 0; i < segment.count; i += 1)
    copy_bytes(e->f32(f.out, order[i]) + from, out + i * w.rows + from, (uint64_t)(to - from) * 4);
}

void run_top(Engine* e, int32_t item) {
  const Step& s = e->step;
  const int64_t at = (int64_t)item * s.top;
  s.masses[item] = e->k->top_logits(e->f32(e->logits, item), e->vocab, s.top, s.top_ids + at, s.top_logits + at);
}

/** A failed step has written over the recurrent states, which cannot be had back. */
void empty_recurrent(Engine* e) {
  if (e->states.size == 0) return;
  for (int32_t r = 0; r < e->run_count; r += 1) {
    Sequence& s = e->sequences[e->runs[r].sequence];
    s.length = 0;
    trim(e, s, 0);
  }
}

}  // namespace

Engine* engine_create(const int32_t* words, uint64_t word_count, const Blob* blobs, uint32_t blob_count,
                      const Kernels* kernels, int32_t threads, int64_t prefetch, Failure* failure) {
  // Plain memory from the host; every member's initial value is zero or set below.
  Engine* e = (Engine*)host_alloc(sizeof(Engine));
  if (!e) {
    fail(failure, Status::out_of_memory, -1, "not enough memory to load the program");
    return nullptr;
  }
  e->k = kernels;
  e->threads = threads < 1 ? 1 : threads;
  for (int64_t& p : e->prefetch) p = prefetch;
  e->failed_op = INT32_MAX;
  e->heads_per_kv = e->most_queries = e->key_parts = 1;
  e->expert_rows = kExpertRows;
  Decoder d{*e, words, blobs, blob_count > INT32_MAX ? INT32_MAX : (int32_t)blob_count, failure};
  int32_t n_buffers = 0, n_weights = 0, n_ops = 0, op_words = 0, n_states = 0;
  bool ok = d.header(word_count, n_buffers, n_weights, n_ops, op_words, n_states);
  const int32_t* at = words + kHeaderWords;
  ok = ok && d.decode_buffers(at, n_buffers);
  at += (int64_t)n_buffers * kBufferWords;
  ok = ok && d.decode_weights(at, n_weights);
  at += (int64_t)n_weights * kWeightWords;
  ok = ok && d.decode_tail(at + op_words, n_states);
  ok = ok && d.decode_ops(at, n_ops, op_words);
  if (ok && (!e->factors.allocate((uint64_t)e->threads * kernels->token_block) || !e->counters.allocate((uint64_t)e->threads)))
    ok = d.memory();
  if (ok && e->choices > 0 && !e->expert_ends.allocate(kMaxExperts)) ok = d.memory();
  if (ok) return e;
  engine_free(e);
  return nullptr;
}

void engine_free(Engine* e) {
  if (!e) return;
  for (uint64_t i = 0; i < e->sequences.size; i += 1) engine_sequence_free(e, (int32_t)i);
  for (int kind = 0; kind < kCaches; kind += 1) {
    while (e->spare_count[kind] > 0) host_free(block_of(e->spare[kind][--e->spare_count[kind]]), block_bytes(e, kind));
    e->spare[kind].release();
  }
  e->buffers.release();
  e->weights.release();
  e->ops.release();
  e->stages.release();
  e->own_logits.release();
  e->splits.release();
  e->tails.release();
  e->sequences.release();
  e->arena.release();
  e->scratch.release();
  e->factors.release();
  e->counters.release();
  e->runs.release();
  e->group_first.release();
  e->shared.release();
  e->arrivals.release();
  e->layer_table.release();
  e->states.release();
  e->order.release();
  e->expert_ends.release();
  e->segments.release();
  host_free(e, sizeof(Engine));
}

int32_t engine_sequence_create(Engine* e) {
  uint64_t id = 0;
  while (id < e->sequences.size && e->sequences[id].used) id += 1;
  if (id == e->sequences.size) {
    if (id >= (uint64_t)kMaxSequences || !e->sequences.grow(id ? 2 * id : 4)) return -1;
  }
  e->sequences[id].used = true;
  e->sequences[id].length = 0;
  e->sequences[id].kept = 0;
  return (int32_t)id;
}

bool engine_sequence_free(Engine* e, int32_t sequence) {
  Sequence* s = find(e, sequence);
  if (!s) return false;
  trim(e, *s, 0);
  for (Array<float*>& blocks : s->blocks) blocks.release();
  s->used = false;
  return true;
}

int32_t engine_sequence_length(const Engine* e, int32_t sequence) {
  const Sequence* s = find(e, sequence);
  return s ? s->length : -1;
}

int32_t engine_rewind_limit(const Engine* e, int32_t sequence) {
  const Sequence* s = find(e, sequence);
  return s ? (int32_t)rewind_limit(e, *s) : -1;
}

bool engine_truncate(Engine* e, int32_t sequence, int32_t length, Failure* f) {
  Sequence* s = find(e, sequence);
  if (!s) return fail(f, Status::bad_sequence, -1, "sequence ", sequence, " does not exist");
  if (!can_rewind(e, *s, length, "truncate to ", f)) return false;
  s->length = length;
  trim(e, *s, length);
  return true;
}

int32_t engine_fork(Engine* e, int32_t sequence, int32_t length, Failure* f) {
  const Sequence* from = find(e, sequence);
  if (!from) return fail(f, Status::bad_sequence, -1, "sequence ", sequence, " does not exist"), -1;
  if (!can_rewind(e, *from, length, "fork at ", f)) return -1;
  const int32_t id = engine_sequence_create(e);
  const uint64_t blocks = blocks_for(length);
  bool ok = id >= 0;
  for (int kind = 0; kind < kCaches && ok; kind += 1)
    ok = e->caches[kind].layers == 0 || e->sequences[id].blocks[kind].grow(blocks);
  if (ok && length > 0) ok = need_state(e, e->sequences[id]);
  if (!ok) {
    if (id >= 0) engine_sequence_free(e, id);
    return fail(f, Status::out_of_memory, -1, "not enough memory for another sequence"), -1;
  }
  from = find(e, sequence);  // the table may have moved
  Sequence& to = e->sequences[id];
  for (int kind = 0; kind < kCaches; kind += 1) {
    if (e->caches[kind].layers == 0) continue;
    for (uint64_t b = kind == kWindowed ? from->kept : 0; b < blocks; b += 1) {
      to.blocks[kind][b] = from->blocks[kind][b];
      block_of(to.blocks[kind][b])->owners += 1;
    }
  }
  if (length > 0 && from->state.size) copy_bytes(to.state.data, from->state.data, from->state.size * 4);
  to.kept = length > 0 ? from->kept : 0;
  to.length = length;
  return id;
}

bool engine_begin(Engine* e, const Step& step, Failure* f) {
  if (!check_step(e, step, f)) return false;
  const auto memory = [&] {
    return fail(f, Status::out_of_memory, -1, "not enough memory for a step of ", step.rows, " rows");
  };
  int64_t longest = 1;
  for (int32_t r = 0; r < e->run_count; r += 1) {
    const Run& run = e->runs[r];
    Sequence& s = e->sequences[run.sequence];
    const int64_t to = (int64_t)s.length + run.rows;
    if (!reserve(e, s, s.length, to)) return memory();
    if (to > longest) longest = to;
  }
  if (e->caches[kWhole].layers == 0) {
    const int64_t seen = e->caches[kWindowed].window + kQueries + kBlock;
    longest = seen < longest ? seen : longest;
  }
  const uint64_t choices = (uint64_t)step.rows * e->choices;
  if (!reserve_buffers(e, step) || !reserve_scratch(e, longest) || !e->order.grow(choices) || !e->segments.grow(choices))
    return memory();
  e->step = step;
  e->failed_op = INT32_MAX;

  // Several rows of a sequence share the reads of its cache: as many as give the kernel all the queries it takes.
  const int32_t rows = kQueries / e->heads_per_kv;
  e->attention_rows = step.rows < 16 || rows < 1 ? 1 : rows;
  int32_t groups = 0;
  for (int32_t r = 0; r < e->run_count; r += 1) {
    e->group_first[r] = groups;
    groups += (e->runs[r].rows + e->attention_rows - 1) / e->attention_rows;
  }
  const int32_t pairs = groups * e->kv_heads;
  e->key_parts = key_parts_of(e, pairs, longest);
  if (e->key_parts > 1) {
    e->shared_stride = shared_floats(e);
    const uint64_t floats = (uint64_t)(pairs * e->shared_stride);
    // Nothing in it outlasts a step.
    if ((floats > e->shared.size && !e->shared.allocate(floats)) || !e->arrivals.grow(pairs)) return memory();
    // A step whose threads were lost has left some.
    for (int32_t i = 0; i < pairs; i += 1) e->arrivals[i].count = 0;
  }
  for (int32_t i = 0; i < e->stage_count; i += 1) {
    Stage& s = e->stages[i];
    s.items = 0;
    switch (s.kind) {
      case StageKind::rows: s.items = (int32_t)e->rows_of(s.rows); break;
      case StageKind::scores: s.items = e->key_parts > 1 ? pairs * e->key_parts : 0; break;
      case StageKind::attention: s.items = pairs * e->key_parts; break;
      case StageKind::group: s.items = 1; break;
      case StageKind::top: s.items = step.top > 0 ? step.outputs : 0; break;
      case StageKind::experts: break;  // group_choices says
      case StageKind::conv:
      case StageKind::delta:
        e->splits[s.first] = split_along_sequence(e, e->ops[s.first]);
        s.items = e->splits[s.first].items;
        break;
      case StageKind::matmul:
        for (int32_t op = s.first; op < s.last; op += 1) {
          e->splits[op] = split_matmul(e, e->ops[op], e->rows_of(product_of(e->ops[op]).x));
          s.items += e->splits[op].items;
        }
    }
  }
  return true;
}

int32_t engine_stages(const Engine* e) { return e->stage_count; }
int32_t engine_items(const Engine* e, int32_t stage) { return e->stages[stage].items; }

int32_t engine_rows(const Engine* e) { return e->step.rows; }
bool engine_starts_layer(const Engine* e, int32_t stage) { return e->stages[stage].kind == StageKind::attention; }
int64_t engine_stage_work(const Engine* e, int32_t stage) {
  const Stage& s = e->stages[stage];
  if (s.kind != StageKind::matmul) return 0;
  int64_t work = 0;
  for (int32_t op = s.first; op < s.last; op += 1) {
    const Weight& w = matmul_weight(e, e->ops[op]);
    work += w.rows * w.columns * e->rows_of(product_of(e->ops[op]).x);
  }
  return work;
}
int32_t engine_weights(const Engine* e, int32_t stage, int32_t part, int32_t parts, Blob* pieces, int32_t most) {
  const Stage& s = e->stages[stage];
  if (s.kind != StageKind::matmul || e->step.rows > 8) return 0;
  int64_t first = (int64_t)s.items * part / parts, last = (int64_t)s.items * (part + 1) / parts;
  int32_t n = 0;
  for (int32_t op = s.first; op < s.last && n < most && last > 0; op += 1) {
    const Split& split = e->splits[op];
    const int64_t items = split.items, from = first > 0 ? first : 0, to = last < items ? last : items;
    first -= items;
    last -= items;
    if (from >= to || split.row_chunks != items) continue;
    const Weight& w = matmul_weight(e, e->ops[op]);
    const int64_t units = units_of(w), begin = from * split.chunk, end = to * split.chunk < units ? to * split.chunk : units;
    pieces[n++] = Blob{w.bytes + begin * unit_bytes(w), (uint64_t)((end - begin) * unit_bytes(w))};
  }
  return n;
}

void engine_run_item(Engine* e, int32_t stage, int32_t item, int32_t thread) {
  const Stage& s = e->stages[stage];
  switch (s.kind) {
    case StageKind::rows:
      for (int32_t op = s.first; op < s.last; op += 1) run_row_op(e, op, item, thread);
      break;
    case StageKind::scores: run_scores(e, s.first, item); break;
    case StageKind::attention:
      if (e->key_parts > 1) run_values(e, s.first, item, thread);
      else run_attention(e, s.first, item, thread);
      break;
    case StageKind::conv: run_conv(e, s.first, item); break;
    case StageKind::delta: run_delta(e, s.first, item, thread); break;
    case StageKind::group: group_choices(e, stage); break;
    case StageKind::top: run_top(e, item); break;
    case StageKind::matmul:
    case StageKind::experts: {
      int32_t op = s.first;
      while (item >= e->splits[op].items) item -= e->splits[op++].items;
      if (s.kind == StageKind::matmul) run_matmul(e, op, item, thread);
      else run_expert(e, op, item, thread);
    }
  }
}

bool engine_failed(const Engine* e) { return __atomic_load_n(&e->failed_op, __ATOMIC_RELAXED) != INT32_MAX; }

bool engine_end(Engine* e, Failure* f) {
  if (e->failed_op != INT32_MAX) {
    empty_recurrent(e);
    return fail(f, Status::non_finite, e->failed_op, "a NaN or infinity in operation ", e->failed_op);
  }
  for (int32_t r = 0; r < e->run_count; r += 1) {
    Sequence& s = e->sequences[e->runs[r].sequence];
    s.length += e->runs[r].rows;
    forget_unseen(e, s);
  }
  return true;
}

bool engine_abandon(Engine* e) {
  empty_recurrent(e);
  return e->states.size > 0;
}

Counters engine_counters(const Engine* e) {
  // Nothing but counts of 64 bits.
  Counters sum{};
  for (uint64_t t = 0; t < e->counters.size; t += 1)
    for (uint64_t i = 0; i < sizeof sum / 8; i += 1) ((uint64_t*)&sum)[i] += ((const uint64_t*)(const Counters*)&e->counters[t])[i];
  return sum;
}
Memory engine_memory(const Engine* e) { return Memory{e->arena.size + e->own_logits.size * 4, e->kv_bytes, e->scratch.size, e->state_bytes}; }
EngineSizes engine_sizes(const Engine* e) { return EngineSizes{e->k->isa, e->vocab, e->trace_points}; }
bool engine_matrix(const Engine* e, uint32_t i, Blob* out) {
  for (uint64_t op = 0; op < e->ops.size; op += 1) {
    const Op& o = e->ops[op];
    if (!reads_matrix(o.kind) || i-- > 0) continue;
    const Weight& w = matmul_weight(e, o);
    *out = Blob{w.bytes, (uint64_t)(all_units(w) * unit_bytes(w))};
    return true;
  }
  return false;
}
int64_t engine_macs_per_row(const Engine* e) { return e->macs_per_row; }

uint64_t engine_stream(Engine* e, Stream kind, uint64_t piece, int64_t prefetch) {
  uint64_t largest = 0;
  for (uint64_t i = 0; i < e->ops.size; i += 1) {
    if (!reads_matrix(e->ops[i].kind)) continue;
    const Weight& w = matmul_weight(e, e->ops[i]);
    if (stream_of(w) != kind) continue;
    const uint64_t size = (uint64_t)(all_units(w) * unit_bytes(w));
    largest = size > largest ? size : largest;
  }
  const uint64_t per = largest / kPieceBytes;
  if (per == 0) return 0;
  for (uint64_t i = 0; i < e->ops.size; i += 1) {
    if (!reads_matrix(e->ops[i].kind)) continue;
    const Weight& w = matmul_weight(e, e->ops[i]);
    if (stream_of(w) != kind || (uint64_t)(all_units(w) * unit_bytes(w)) != largest) continue;
    if (piece >= per) {
      piece -= per;
      continue;
    }
    // Experts lie like one tall matrix.
    const int64_t units = all_units(w), rows = (int64_t)kPieceBytes / unit_bytes(w);
    const int64_t R = w.experts > 1 ? units * kGroupedRows : w.rows;
    const bool is_grouped = kind == Stream::grouped;
    const int64_t begin = (int64_t)piece * rows, end = begin + rows;
    if (rows == 0 || end > units) return 0;
    // One row of zeros: what it is multiplied with takes no part in the time.
    Array<float> x, out;
    Array<uint8_t> scratch;
    const int64_t row_bytes = is_grouped ? planes_stride(w.columns, w.group) : code_stride(w.columns);
    const bool ok = x.allocate((row_bytes + 3) / 4 + w.columns) && out.allocate(R) &&
                    scratch.allocate(is_grouped ? e->k->grouped_scratch(w.columns, w.group) : e->k->ternary_scratch(w.columns));
    if (ok) {
      const float scale = 1;
      const int8_t* codes = (const int8_t*)x.data;
      if (kind == Stream::ternary) {
        e->k->ternary(TernaryArgs{w.bytes, w.tail, w.tail_first, w.columns, w.rows, units, begin, end, codes, &scale, 1,
                                  out.data, scratch.data, prefetch});
      } else if (is_grouped) {
        e->k->grouped(GroupedArgs{w.bytes, w.scales, w.dtype == Dense::f16, w.columns, R, w.group, begin, end,
                                  (const uint8_t*)x.data, &scale, 1, out.data, scratch.data, prefetch});
      } else if (kind == Stream::int8) {
        e->k->int8(Int8Args{w.bytes, w.tail, w.tail_first, w.row_scale, w.columns, w.rows, begin, end, codes, &scale, 1,
                            out.data, prefetch});
      } else {
        e->k->dense(DenseArgs{w.bytes, w.dtype, w.columns, w.rows, begin, end, x.data, 1, out.data, prefetch});
      }
    }
    x.release();
    out.release();
    scratch.release();
    return ok ? (uint64_t)(rows * unit_bytes(w)) : 0;
  }
  return 0;
}

int64_t engine_prefetch(const Engine* e, Stream kind) { return e->prefetch[(int)kind]; }
void engine_set_prefetch(Engine* e, Stream kind, int64_t bytes) { e->prefetch[(int)kind] = bytes; }

}  // namespace bitnet
