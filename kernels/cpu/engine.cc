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

// Packed bytes of one work item: small enough that a thread which loses its core holds up the others for microseconds,
// and, in a large matrix, so large that claiming one costs nothing beside it.
constexpr int64_t kChunkBytes = 48 * 1024, kMostChunkBytes = 256 * 1024, kChunksPerThread = 16;

// What a prefetch distance is timed on: long beside the start of a stream, and many of them in the largest matrices.
constexpr uint64_t kPieceBytes = 2 << 20;

struct Buffer {
  BufferType type;
  bool outputs;  // one row per output, else per token
  int32_t width;
  int32_t group;  // of an i16 buffer
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
  float scale;
  const uint8_t* tail;
  int64_t tail_first;
};

/** What a matrix product is split by: byte rows of four rows each, panels of 64, or rows. */
int64_t units_of(const Weight& w) {
  if (w.kind == WeightKind::grouped) return panels_of(w.rows);
  return w.kind == WeightKind::ternary ? (w.rows + 3) / 4 : w.rows;
}
/** Bytes of codes or elements, without scales. */
int64_t unit_bytes(const Weight& w) {
  if (w.kind == WeightKind::grouped) return panel_bytes(w.columns);
  return w.columns * (w.kind != WeightKind::dense ? 1 : element_bytes(w.dtype));
}

Stream stream_of(const Weight& w) {
  switch (w.kind) {
    case WeightKind::ternary: return Stream::ternary;
    case WeightKind::int8: return Stream::int8;
    case WeightKind::grouped: return Stream::grouped;
    default: return Stream::dense;
  }
}

constexpr int32_t kMostOpWords = 8;

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
Product product_of(const Op& o) {
  if (o.kind == OpKind::dense_matmul) {
    const auto f = o.as<op::DenseMatmul>();
    return Product{f.x, -1, f.weight, f.out};
  }
  // The others have the same four words.
  const auto f = o.as<op::TernaryMatmul>();
  return Product{f.codes, f.scale, f.weight, f.out};
}

enum class StageKind : int32_t { rows, matmul, attention };

struct Stage {
  StageKind kind;
  bool outputs;  // rows: over output rows
  int32_t first, last;  // operations [first, last)
  int32_t items;        // during a step
};

/** How the items of one matmul lie in its stage, during a step. */
struct Split {
  int32_t items;
  int32_t row_chunks;
  int32_t chunk;  // byte rows (ternary) or rows
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
  Array<float*> blocks;  // floats of each block
};

struct Run {
  int32_t first, rows;  // rows of the step
  int32_t sequence;
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
  int32_t stage_count = 0;
  Array<Split> splits;     // per operation
  Array<uint8_t> tails;

  int32_t layers, kv_heads, head_dim, rope_dim, context, vocab, logits, trace_points;
  const float* cos;
  const float* sin;
  int64_t layer_floats, block_floats;
  int64_t macs_per_row = 0;
  int64_t scratch_bytes = 0;

  Array<Sequence> sequences;
  uint64_t kv_bytes = 0;

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
  int32_t failed_op;           // lowest operation that met a NaN, or INT32_MAX; atomic
  Array<ThreadCounters> counters;  // per thread

  float* f32(int32_t buffer, int64_t row) const {
    const Buffer& b = buffers[buffer];
    return (float*)(b.data + row * b.row_bytes);
  }
  int8_t* i8(int32_t buffer, int64_t row) const { return (int8_t*)planes(buffer, row); }
  uint8_t* planes(int32_t buffer, int64_t row) const {
    const Buffer& b = buffers[buffer];
    return b.data + row * b.row_bytes;
  }
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
    const char* const names[] = {" must be f32", " must be i8", " must be i16"};
    if (b.type != type) return bad(what, ": buffer ", id, names[(int)type]);
    if (width > 0 && b.width != width) return bad(what, ": buffer ", id, " is ", b.width, " wide, must be ", width);
    return true;
  }
  bool same_rows(int32_t a, int32_t b, const char* what) {
    if (e.buffers[a].outputs == e.buffers[b].outputs) return true;
    return bad(what, ": buffers ", a, " and ", b, " count different rows");
  }
  bool token_rows(int32_t a, const char* what) {
    return e.buffers[a].outputs ? bad(what, ": buffer ", a, " must have 'tokens' rows") : true;
  }
  bool floats_of(int32_t id, int32_t width, const char* what) { return buffer(id, BufferType::f32, width, what); }
  bool weight(int32_t id, WeightKind kind, const char* what) {
    return e.weights[id].kind == kind ? true : bad(what, ": weight ", id, " has the wrong kind");
  }
  bool distinct(int32_t a, int32_t b) {
    return a != b ? true : bad("buffer ", a, " is both read and written");
  }

  bool header(uint64_t word_count, int32_t& n_buffers, int32_t& n_weights, int32_t& n_ops, int32_t& op_words) {
    if (word_count < (uint64_t)kHeaderWords || words[0] != kProgramMagic) return bad("not a program of this version");
    n_buffers = words[1], n_weights = words[2], n_ops = words[3], op_words = words[4];
    e.layers = words[5], e.kv_heads = words[6], e.head_dim = words[7], e.rope_dim = words[8];
    e.context = words[9], e.vocab = words[10], e.logits = words[11], e.trace_points = words[12];
    if (!in_range(n_buffers, 1, kMaxBuffers, "number of buffers") ||
        !in_range(n_weights, 0, kMaxWeights, "number of weights") || !in_range(n_ops, 1, kMaxOps, "number of operations") ||
        !in_range(op_words, n_ops, n_ops * (kMostOpWords + 1), "words of operations") ||
        !in_range(e.layers, 0, kMaxLayers, "kv.layers") || !in_range(e.kv_heads, 1, kMaxHeads, "kv.kvHeads") ||
        !in_range(e.head_dim, 1, kMaxHeadDim, "kv.headDim") || !in_range(e.rope_dim, 2, kMaxHeadDim, "rope.headDim") ||
        !in_range(e.context, 1, kMaxContext, "contextLength") || !in_range(e.vocab, 1, kMaxWidth, "vocabSize") ||
        !in_range(e.trace_points, 0, kMaxOps, "tracePoints"))
      return false;
    if (e.rope_dim % 2) return bad("rope.headDim ", e.rope_dim, " is odd");
    const uint64_t need = (uint64_t)kHeaderWords + (uint64_t)n_buffers * kBufferWords + (uint64_t)n_weights * kWeightWords +
                          (uint64_t)op_words;
    if (word_count != need) return bad("program has ", word_count, " words, must have ", need);
    const uint64_t table = (uint64_t)e.context * (e.rope_dim / 2);
    e.cos = floats(words[13], table, "rope.cos");
    e.sin = e.cos ? floats(words[14], table, "rope.sin") : nullptr;
    if (!e.sin) return false;
    e.layer_floats = e.kv_heads * (k_head_floats(e.head_dim) + v_head_floats(e.head_dim));
    e.block_floats = e.layers * e.layer_floats;
    if (e.block_floats > (int64_t)1 << 32) return bad("one block of the KV cache would hold ", e.block_floats, " floats");
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
      if (!in_range(at[0], 0, 2, "buffer dtype") || !in_range(at[1], 0, 1, "buffer rows") ||
          !in_range(at[2], 1, kMaxWidth, "buffer width"))
        return false;
      Buffer& b = e.buffers[i];
      b.type = (BufferType)at[0];
      b.outputs = at[1] == 1;
      b.width = at[2];
      b.group = at[3];
      if (b.type == BufferType::i16 && (!in_range(b.width, 1, kMaxColumns, "width of an i16 buffer") || !group(b.group, b.width)))
        return false;
      b.row_bytes = b.type == BufferType::f32  ? (uint64_t)b.width * 4
                    : b.type == BufferType::i8 ? code_stride(b.width)
                                               : planes_stride(b.width, b.group);
    }
    if (!in_range(e.logits, 0, n - 1, "logits") || !floats_of(e.logits, e.vocab, "logits")) return false;
    return e.buffers[e.logits].outputs ? true : bad("logits must have 'outputs' rows");
  }

  bool decode_weights(const int32_t* at, int32_t n) {
    if (!e.weights.allocate(n)) return memory();
    uint64_t tail_bytes = 0;
    for (int32_t i = 0; i < n; i += 1, at += kWeightWords) {
      if (!in_range(at[0], 0, 4, "weight kind") || !in_range(at[1], 1, kMaxWidth, "weight rows") ||
          !in_range(at[2], 1, kMaxWidth, "weight columns") || !in_range(at[3], 0, 2, "weight dtype"))
        return false;
      Weight& w = e.weights[i];
      w.kind = (WeightKind)at[0];
      w.rows = at[1];
      w.columns = at[2];
      w.dtype = (Dense)at[3];
      w.scale = float_of(at[5]);
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
        size = (uint64_t)(panels_of(w.rows) * panel_bytes(w.columns));
        const int64_t scales = panels_of(w.rows) * (w.columns / w.group) * kGroupedRows;
        w.scales = blob(at[6], (uint64_t)(scales * element_bytes(w.dtype)), "scales");
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
    return same_rows(p.x, p.out, "codes") && same_rows(p.x, p.scale, "codes") && distinct(p.scale, p.out);
  }

  bool embed(int32_t table, int32_t out, WeightKind kind) {
    if (!weight(table, kind, "table")) return false;
    const Weight& w = e.weights[table];
    if (w.rows < e.vocab) return bad("table has ", w.rows, " rows for ", e.vocab, " tokens");
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
        return matmul(product_of(o), WeightKind::ternary, BufferType::i8);
      case OpKind::int8_matmul:
        return matmul(product_of(o), WeightKind::int8, BufferType::i8);
      case OpKind::grouped_matmul:
        return matmul(product_of(o), WeightKind::grouped, BufferType::i16);
      case OpKind::rope: {
        const auto f = o.as<op::Rope>();
        if (!in_range(f.heads, 1, kMaxHeads, "heads")) return false;
        if (f.head_dim != e.rope_dim) return bad("headDim ", f.head_dim, " has no rope table (", e.rope_dim, ")");
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
        return floats_of(f.q, width, "q") && floats_of(f.out, width, "out") && token_rows(f.q, "q") &&
               token_rows(f.out, "out") && distinct(f.q, f.out);
      }
      case OpKind::gated_activation: {
        const auto f = o.as<op::GatedActivation>();
        if (!in_range(f.fn, 0, 1, "fn") || !floats_of(f.gate, 0, "gate")) return false;
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
        return e.buffers[f.out].outputs ? true : bad("out must have 'outputs' rows");
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
    }
    return false;
  }

  bool decode_ops(const int32_t* at, int32_t n, int32_t n_words) {
    if (!e.ops.allocate(n) || !e.splits.allocate(n) || !e.stages.allocate(n)) return memory();
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
    return at == end ? true : bad((int64_t)(end - at), " words behind the last operation");
  }

  void count_work(const Op& o) {
    if (!is_product(o.kind)) return;
    const Weight& w = e.weights[product_of(o).weight];
    e.macs_per_row += w.rows * w.columns;
    const int64_t need = w.kind == WeightKind::ternary   ? e.k->ternary_scratch(w.columns)
                         : w.kind == WeightKind::grouped ? e.k->grouped_scratch(w.columns, w.group)
                                                         : 0;
    if (need > e.scratch_bytes) e.scratch_bytes = round_up(need, 64);
  }

  // Stages: operations that need no barrier between them. A run of operations that each touch only their own row is
  // one stage whose items are rows; matrix products that do not read one another's outputs are one stage whose items
  // are chunks of all of them.
  bool over_outputs(const Op& o) const {
    switch (o.kind) {
      case OpKind::select_outputs: return true;
      case OpKind::gated_activation: return e.buffers[o.as<op::GatedActivation>().gate].outputs;
      // Their first word is x.
      case OpKind::rms_norm: case OpKind::rms_norm_heads: case OpKind::quantize: case OpKind::quantize16: case OpKind::add:
        return e.buffers[o.words[0]].outputs;
      default: return false;
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
  void stage(int32_t i) {
    const Op& o = e.ops[i];
    const StageKind kind = is_product(o.kind)              ? StageKind::matmul
                           : o.kind == OpKind::attention ? StageKind::attention
                                                         : StageKind::rows;
    const bool outputs = kind == StageKind::rows && over_outputs(o);
    if (e.stage_count > 0) {
      Stage& last = e.stages[e.stage_count - 1];
      if (last.kind == kind && ((kind == StageKind::rows && last.outputs == outputs) ||
                                (kind == StageKind::matmul && joins(last, o)))) {
        last.last = i + 1;
        return;
      }
    }
    e.stages[e.stage_count++] = Stage{kind, outputs, i, i + 1, 0};
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Sequences

Sequence* find(const Engine* e, int32_t id) {
  if (id < 0 || (uint64_t)id >= e->sequences.size || !e->sequences[id].used) return nullptr;
  return &const_cast<Engine*>(e)->sequences[id];
}

uint64_t block_bytes(const Engine* e) { return sizeof(KvBlock) + (uint64_t)e->block_floats * 4; }

float* new_block(Engine* e) {
  KvBlock* block = (KvBlock*)host_alloc(block_bytes(e));
  if (!block) return nullptr;
  block->owners = 1;
  e->kv_bytes += block_bytes(e);
  return block->floats();
}
void drop_block(Engine* e, float* floats) {
  KvBlock* block = block_of(floats);
  block->owners -= 1;
  if (block->owners > 0) return;
  e->kv_bytes -= block_bytes(e);
  host_free(block, block_bytes(e));
}

int64_t blocks_for(int64_t length) { return (length + kBlock - 1) / kBlock; }

/** Drops the blocks that no position below `length` needs. */
void trim(Engine* e, Sequence& s, int64_t length) {
  for (uint64_t b = blocks_for(length); b < s.blocks.size; b += 1) {
    if (!s.blocks[b]) continue;
    drop_block(e, s.blocks[b]);
    s.blocks[b] = nullptr;
  }
}

/** Makes positions [from, to) writable: they exist and no fork shares them. */
bool reserve(Engine* e, Sequence& s, int64_t from, int64_t to) {
  const uint64_t need = blocks_for(to);
  if (need > s.blocks.size) {
    uint64_t grown = s.blocks.size * 2 > 8 ? s.blocks.size * 2 : 8;
    if (!s.blocks.grow(grown > need ? grown : need)) return false;
  }
  for (uint64_t b = from / kBlock; b < need; b += 1) {
    float*& block = s.blocks[b];
    if (block && block_of(block)->owners == 1) continue;
    float* fresh = new_block(e);
    if (!fresh) return false;
    if (block) {
      copy_bytes(fresh, block, (uint64_t)e->block_floats * 4);
      drop_block(e, block);
    }
    block = fresh;
  }
  return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Steps

bool check_step(Engine* e, const Step& s, Failure* f) {
  const auto bad = [&](auto... args) { return fail(f, Status::bad_step, -1, args...); };
  if (s.rows < 1 || s.rows > kMaxRows) return bad("a step has ", s.rows, " rows, must have 1..", kMaxRows);
  if (s.outputs < 0 || s.outputs > s.rows) return bad(s.outputs, " output rows of ", s.rows);
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

/** Activation buffers for the rows of this step; logits go straight to the caller. */
bool reserve_buffers(Engine* e, const Step& s) {
  if (s.rows > e->row_capacity || s.outputs > e->output_capacity) {
    const int32_t rows = s.rows > e->row_capacity ? s.rows : e->row_capacity;
    const int32_t outputs = s.outputs > e->output_capacity ? s.outputs : e->output_capacity;
    uint64_t total = 0;
    for (uint64_t i = 0; i < e->buffers.size; i += 1) {
      if ((int32_t)i == e->logits) continue;
      const Buffer& b = e->buffers[i];
      total += round_up(b.row_bytes * (b.outputs ? outputs : rows) + 64, 64);
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
      used += round_up(b.row_bytes * (b.outputs ? outputs : rows) + 64, 64);
    }
  }
  e->buffers[e->logits].data = (uint8_t*)s.logits;
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

void note_failure(Engine* e, int32_t op) {
  int32_t seen = __atomic_load_n(&e->failed_op, __ATOMIC_RELAXED);
  while (op < seen && !__atomic_compare_exchange_n(&e->failed_op, &seen, op, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

void count(uint64_t& counter) { __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED); }

void run_row_op(Engine* e, int32_t index, int64_t row) {
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
      const int64_t at = (int64_t)s.positions[row] * (e->rope_dim / 2);
      k.rope(e->f32(f.x, row), e->cos + at, e->sin + at, f.heads, f.head_dim);
      break;
    }
    case OpKind::kv_append: {
      const auto f = o.as<op::KvAppend>();
      const int64_t D = e->head_dim, position = s.positions[row];
      float* block = e->sequences[s.sequences[row]].blocks[position / kBlock] + f.layer * e->layer_floats;
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
      const auto apply = f.fn == 0 ? k.relu2 : k.silu;
      apply(e->f32(f.gate, row), e->f32(f.up, row), e->buffers[f.gate].width, e->f32(f.out, row));
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
  const int64_t T = e->buffers[p.x].outputs ? e->step.outputs : e->step.rows;
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

/** Item: one group of rows of one sequence with one KV head. */
void run_attention(Engine* e, int32_t index, int32_t item, int32_t thread) {
  const auto f = e->ops[index].as<op::Attention>();
  const int64_t D = e->head_dim, heads = f.heads, per_kv = heads / e->kv_heads;
  const int32_t kv_head = item % e->kv_heads, group = item / e->kv_heads;
  int32_t low = 0, high = e->run_count - 1;
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (e->group_first[middle] <= group) low = middle;
    else high = middle - 1;
  }
  const Run& run = e->runs[low];
  const int64_t first = run.first + (int64_t)(group - e->group_first[low]) * e->attention_rows;
  const int64_t stop = run.first + run.rows;
  const int64_t last = first + e->attention_rows < stop ? first + e->attention_rows : stop;
  float* scores = (float*)(e->scratch.data + thread * e->scratch_stride + e->scratch_bytes);
  const int64_t layer = f.layer * e->layer_floats;
  AttentionArgs args{};
  args.blocks = e->sequences[run.sequence].blocks.data;
  args.k_at = layer + kv_head * k_head_floats(D);
  args.v_at = layer + e->kv_heads * k_head_floats(D) + kv_head * v_head_floats(D);
  args.D = D;
  args.scale = f.scale;
  args.scores = scores;
  args.score_stride = e->score_stride;
  for (int64_t row = first; row < last; row += 1) {
    for (int64_t h = kv_head * per_kv; h < (kv_head + 1) * per_kv; h += 1) {
      args.q[args.queries] = e->f32(f.q, row) + h * D;
      args.out[args.queries] = e->f32(f.out, row) + h * D;
      args.count[args.queries] = (int64_t)e->step.positions[row] + 1;
      args.queries += 1;
      if (args.queries < kQueries) continue;
      e->k->attention(args);
      args.queries = 0;
    }
  }
  if (args.queries) e->k->attention(args);
  count(e->counters[thread].attention);
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
  e->heads_per_kv = 1;
  Decoder d{*e, words, blobs, blob_count > INT32_MAX ? INT32_MAX : (int32_t)blob_count, failure};
  int32_t n_buffers = 0, n_weights = 0, n_ops = 0, op_words = 0;
  bool ok = d.header(word_count, n_buffers, n_weights, n_ops, op_words);
  const int32_t* at = words + kHeaderWords;
  ok = ok && d.decode_buffers(at, n_buffers);
  at += (int64_t)n_buffers * kBufferWords;
  ok = ok && d.decode_weights(at, n_weights);
  at += (int64_t)n_weights * kWeightWords;
  ok = ok && d.decode_ops(at, n_ops, op_words);
  if (ok && (!e->factors.allocate((uint64_t)e->threads * kernels->token_block) || !e->counters.allocate((uint64_t)e->threads)))
    ok = d.memory();
  if (ok) return e;
  engine_free(e);
  return nullptr;
}

void engine_free(Engine* e) {
  if (!e) return;
  for (uint64_t i = 0; i < e->sequences.size; i += 1) engine_sequence_free(e, (int32_t)i);
  e->buffers.release();
  e->weights.release();
  e->ops.release();
  e->stages.release();
  e->splits.release();
  e->tails.release();
  e->sequences.release();
  e->arena.release();
  e->scratch.release();
  e->factors.release();
  e->counters.release();
  e->runs.release();
  e->group_first.release();
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
  return (int32_t)id;
}

bool engine_sequence_free(Engine* e, int32_t sequence) {
  Sequence* s = find(e, sequence);
  if (!s) return false;
  trim(e, *s, 0);
  s->blocks.release();
  s->used = false;
  return true;
}

int32_t engine_sequence_length(const Engine* e, int32_t sequence) {
  const Sequence* s = find(e, sequence);
  return s ? s->length : -1;
}

bool engine_truncate(Engine* e, int32_t sequence, int32_t length, Failure* f) {
  Sequence* s = find(e, sequence);
  if (!s) return fail(f, Status::bad_sequence, -1, "sequence ", sequence, " does not exist");
  if (length < 0 || length > s->length) return fail(f, Status::bad_sequence, -1, "truncate to ", length, " of ", s->length);
  s->length = length;
  trim(e, *s, length);
  return true;
}

int32_t engine_fork(Engine* e, int32_t sequence, int32_t length, Failure* f) {
  const Sequence* from = find(e, sequence);
  if (!from) return fail(f, Status::bad_sequence, -1, "sequence ", sequence, " does not exist"), -1;
  if (length < 0 || length > from->length) return fail(f, Status::bad_sequence, -1, "fork at ", length, " of ", from->length), -1;
  const int32_t id = engine_sequence_create(e);
  const uint64_t blocks = blocks_for(length);
  if (id < 0 || !e->sequences[id].blocks.grow(blocks)) {
    if (id >= 0) engine_sequence_free(e, id);
    return fail(f, Status::out_of_memory, -1, "not enough memory for another sequence"), -1;
  }
  from = find(e, sequence);  // the table may have moved
  for (uint64_t b = 0; b < blocks; b += 1) {
    e->sequences[id].blocks[b] = from->blocks[b];
    block_of(from->blocks[b])->owners += 1;
  }
  e->sequences[id].length = length;
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
  if (!reserve_buffers(e, step) || !reserve_scratch(e, longest)) return memory();
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
  for (int32_t i = 0; i < e->stage_count; i += 1) {
    Stage& s = e->stages[i];
    if (s.kind == StageKind::rows) {
      s.items = s.outputs ? step.outputs : step.rows;
    } else if (s.kind == StageKind::attention) {
      s.items = groups * e->kv_heads;
    } else {
      s.items = 0;
      for (int32_t op = s.first; op < s.last; op += 1) {
        const bool outputs = e->buffers[product_of(e->ops[op]).x].outputs;
        e->splits[op] = split_matmul(e, e->ops[op], outputs ? step.outputs : step.rows);
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
    const Product p = product_of(e->ops[op]);
    const Weight& w = e->weights[p.weight];
    work += w.rows * w.columns * (e->buffers[p.x].outputs ? e->step.outputs : e->step.rows);
  }
  return work;
}
int32_t engine_weights(const Engine* e, int32_t stage, int32_t first, int32_t last, Blob* pieces, int32_t most) {
  const Stage& s = e->stages[stage];
  if (s.kind != StageKind::matmul || e->step.rows > 8) return 0;
  int32_t n = 0;
  for (int32_t op = s.first; op < s.last && n < most && last > 0; op += 1) {
    const Split& split = e->splits[op];
    const int32_t items = split.items, from = first > 0 ? first : 0, to = last < items ? last : items;
    first -= items;
    last -= items;
    if (from >= to || split.row_chunks != items) continue;
    const Weight& w = matmul_weight(e, e->ops[op]);
    const int64_t units = units_of(w), begin = (int64_t)from * split.chunk, end = (int64_t)to * split.chunk;
    pieces[n++] = Blob{w.bytes + begin * unit_bytes(w), (uint64_t)(((end < units ? end : units) - begin) * unit_bytes(w))};
  }
  return n;
}

void engine_run_item(Engine* e, int32_t stage, int32_t item, int32_t thread) {
  const Stage& s = e->stages[stage];
  if (s.kind == StageKind::rows) {
    for (int32_t op = s.first; op < s.last; op += 1) run_row_op(e, op, item);
  } else if (s.kind == StageKind::attention) {
    run_attention(e, s.first, item, thread);
  } else {
    int32_t op = s.first;
    while (item >= e->splits[op].items) item -= e->splits[op++].items;
    run_matmul(e, op, item, thread);
  }
}

bool engine_failed(const Engine* e) { return __atomic_load_n(&e->failed_op, __ATOMIC_RELAXED) != INT32_MAX; }

bool engine_end(Engine* e, Failure* f) {
  if (e->failed_op != INT32_MAX)
    return fail(f, Status::non_finite, e->failed_op, "a NaN or infinity in operation ", e->failed_op);
  for (int32_t r = 0; r < e->run_count; r += 1) e->sequences[e->runs[r].sequence].length += e->runs[r].rows;
  return true;
}

Counters engine_counters(const Engine* e) {
  // Nothing but counts of 64 bits.
  Counters sum{};
  for (uint64_t t = 0; t < e->counters.size; t += 1)
    for (uint64_t i = 0; i < sizeof sum / 8; i += 1) ((uint64_t*)&sum)[i] += ((const uint64_t*)(const Counters*)&e->counters[t])[i];
  return sum;
}
Memory engine_memory(const Engine* e) { return Memory{e->arena.size, e->kv_bytes, e->scratch.size}; }
EngineSizes engine_sizes(const Engine* e) { return EngineSizes{e->k->isa, e->vocab, e->trace_points}; }
bool engine_matrix(const Engine* e, uint32_t i, Blob* out) {
  for (uint64_t op = 0; op < e->ops.size; op += 1) {
    const Op& o = e->ops[op];
    if (!is_product(o.kind) || i-- > 0) continue;
    const Weight& w = matmul_weight(e, o);
    *out = Blob{w.bytes, (uint64_t)(units_of(w) * unit_bytes(w))};
    return true;
  }
  return false;
}
int64_t engine_macs_per_row(const Engine* e) { return e->macs_per_row; }

uint64_t engine_stream(Engine* e, Stream kind, uint64_t piece, int64_t prefetch) {
  uint64_t largest = 0;
  for (uint64_t i = 0; i < e->ops.size; i += 1) {
    if (!is_product(e->ops[i].kind)) continue;
    const Weight& w = matmul_weight(e, e->ops[i]);
    if (stream_of(w) != kind) continue;
    const uint64_t size = (uint64_t)(units_of(w) * unit_bytes(w));
    largest = size > largest ? size : largest;
  }
  const uint64_t per = largest / kPieceBytes;
  if (per == 0) return 0;
  for (uint64_t i = 0; i < e->ops.size; i += 1) {
    if (!is_product(e->ops[i].kind)) continue;
    const Weight& w = matmul_weight(e, e->ops[i]);
    if (stream_of(w) != kind || (uint64_t)(units_of(w) * unit_bytes(w)) != largest) continue;
    if (piece >= per) {
      piece -= per;
      continue;
    }
    const int64_t units = units_of(w), rows = (int64_t)kPieceBytes / unit_bytes(w);
    const bool is_grouped = kind == Stream::grouped;
    const int64_t begin = (int64_t)piece * rows, end = begin + rows;
    if (rows == 0 || end > units) return 0;
    // One row of zeros: what it is multiplied with takes no part in the time.
    Array<float> x, out;
    Array<uint8_t> scratch;
    const int64_t row_bytes = is_grouped ? planes_stride(w.columns, w.group) : code_stride(w.columns);
    const bool ok = x.allocate((row_bytes + 3) / 4 + w.columns) && out.allocate(w.rows) &&
                    scratch.allocate(is_grouped ? e->k->grouped_scratch(w.columns, w.group) : e->k->ternary_scratch(w.columns));
    if (ok) {
      const float scale = 1;
      const int8_t* codes = (const int8_t*)x.data;
      if (kind == Stream::ternary) {
        e->k->ternary(TernaryArgs{w.bytes, w.tail, w.tail_first, w.columns, w.rows, units, begin, end, codes, &scale, 1,
                                  out.data, scratch.data, prefetch});
      } else if (is_grouped) {
        e->k->grouped(GroupedArgs{w.bytes, w.scales, w.dtype == Dense::f16, w.columns, w.rows, w.group, begin, end,
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
