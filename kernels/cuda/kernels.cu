// The two ways to run a step. `bitnet_step`: one launch, one block on each multiprocessor, a barrier of the grid between
// instructions; while blocks wait, their next weights are on the way. `bitnet_phase`: one launch an instruction, for cards or
// steps that the first does not suit.
#include "attend-split.cuh"
#include "one-products.cuh"

/** The best logit of each block's share of a row, lower ids first among equals; then of all shares. */
DEVICE void best_of(const float* values, const u32* ids, u32 n, u32 offset, float& best, u32& at) {
  Shared& s = shared();
  best = -from_bits(0x7f800000);
  at = 0xffffffffu;
  for (u32 i = thread(); i < n; i += THREADS) {
    const float v = load(values + i);
    const u32 id = ids ? load(ids + i) : offset + i;
    if (v > best || (v == best && id < at)) best = v, at = id;
  }
  const float most = block_max(best);
  // The id matters only where the value is the largest: its complement, so that the lowest is the largest.
  const u32 mine = best == most && at != 0xffffffffu ? ~at : 0;
  const u32 found = warp_max(mine);
  sync();
  if ((thread() & 31) == 0) s.largest[thread() / 32] = found;
  sync();
  at = ~warp_max(s.largest[thread() & 15]);
  best = most;
  sync();
}

APART void run_best(const Instruction& I) {
  const u32 shares = I.parts, share = (I.width + shares - 1) / shares;
  for (u32 item = block(); item < I.rows * shares; item += blocks()) {
    const u32 o = item / shares, from = item % shares * share;
    const u32 n = from < I.width ? (I.width - from < share ? I.width - from : share) : 0;
    float best;
    u32 at;
    best_of((const float*)I.x + (u64)o * I.x_stride + from, nullptr, n, from, best, at);
    if (thread() == 0) {
      ((float*)I.scratch)[item] = best;
      ((u32*)I.scratch)[I.rows * shares + item] = at;
    }
  }
}

APART void run_best_of_all(const Instruction& I) {
  for (u32 o = block(); o < I.rows; o += blocks()) {
    float best;
    u32 at;
    best_of((const float*)I.scratch + o * I.parts, (const u32*)I.scratch + (u64)I.rows * I.parts + o * I.parts, I.parts, 0, best, at);
    if (thread() == 0) {
      ((u32*)I.out)[2 * o] = at;
      ((float*)I.out)[2 * o + 1] = best;
    }
  }
}

/** What of an instruction can be had before the instructions ahead of it are done: its weights, what is in the cache. */
DEVICE void go_ahead(const Instruction& I, const Input& in) {
  switch (I.op) {
    case TERNARY:
      if (I.fused) ternary_ahead(I);
      break;
    case GROUPED:
      if (I.fused) grouped_ahead(I);
      break;
    case INT8:
      if (I.fused) int8_ahead(I);
      break;
    case ATTEND_SPLIT:
      split_ahead(I, in);
      break;
    case ATTEND_ONE:
    case SCORES:
    case VALUES:
      attend_ahead(I, in);
      break;
  }
}

/** What of the instruction after the next one comes into L2 meanwhile: the weights of its norm. */
DEVICE void fetch_weights(const Instruction& I) {
  if (!I.norm) return;
  for (u32 i = thread() * 32; i < I.width; i += THREADS * 32) fetch((const float*)I.weight + i);
}

DEVICE void run(const Instruction& I, const Input& in, u32 tag) {
  switch (I.op) {
    case EMBED:
      run_embed(I, in);
      break;
    case ROWS:
      run_rows(I);
      break;
    case TERNARY:
      if (I.fused) ternary_one(I);
      else if (I.rows <= 8) ternary_many<1>(I);
      else if (I.rows > MANY_ROWS && I.ending != GATE) ternary_large(I);
      else ternary_many<4>(I);
      break;
    case GROUPED:
      if (I.group % 32 != 0) grouped_plain(I);
      else if (I.fused) grouped_one(I);
      else grouped_rows(I);
      break;
    case INT8:
      if (I.fused) int8_one(I);
      else int8_rows<4>(I);
      break;
    case DENSE:
      dense_rows(I);
      break;
    case HEADS:
      run_heads(I);
      break;
    case ROPE:
      run_rope(I, in);
      break;
    case ATTEND:
      attend(I, in);
      break;
    case ATTEND_ONE:
      attend_one(I, in);
      break;
    case ATTEND_SPLIT:
      attend_split(I, tag);
      break;
    case ATTEND_ROWS:
      attend_rows(I, in);
      break;
    case SCORES:
      scores(I, in);
      break;
    case VALUES:
      values(I, in);
      break;
    case SELECT:
      run_select(I, in);
      break;
    case COUNT:
      run_count(I);
      break;
    case BEST:
      run_best(I);
      break;
    case BEST_OF_ALL:
      run_best_of_all(I);
      break;
  }
}

DEVICE const Instruction& held(u32 i) { return *(const Instruction*)shared().ring[i % 3]; }

DEVICE void know_row(const Input& in) {
  if (thread() != 0) return;
  shared().position = *(const u32*)in.positions;
  shared().table_row = *(const u32*)in.table_rows;
  shared().share.n = ~0u;
}

DEVICE Words part_at(u64 list, u32 n, u32 i) {
  if (i >= n || thread() >= INSTRUCTION_BYTES / 16) return {0, 0, 0, 0};
  return stream((const Words*)list + (u64)i * (INSTRUCTION_BYTES / 16) + thread());
}
DEVICE void hold(u32 i, const Words& part) {
  if (thread() < INSTRUCTION_BYTES / 16) ((Words*)shared().ring[i % 3])[thread()] = part;
}

#ifdef BITNET_PROFILE
/** Clocks of block 0, behind the barrier: of each instruction when it began, ended, and when all had ended. */
DEVICE void note(u64 barrier, u32 i, u32 what) {
  if (block() == 0 && thread() == 0) ((u64*)barrier)[8 + 3 * i + what] = (u64)clock64();
}
#else
DEVICE void note(u64, u32, u32) {}
#endif

/**
 * `base`: the barrier's count before this launch; it grows by the grid at every instruction. `tag`: the first of n numbers that
 * no launch before has had.
 */
KERNEL bitnet_step(u64 list, u32 n, u32 base, u64 input, u64 barrier, u32 tag) {
  const Input& in = *(const Input*)input;
  u32* const count = (u32*)barrier;
  know_row(in);
  hold(0, part_at(list, n, 0));
  hold(1, part_at(list, n, 1));
  sync();
  go_ahead(held(0), in);
  for (u32 i = 0; i < n; i++) {
    // On its way while this one runs; into the place of the one before.
    const Words part = part_at(list, n, i + 2);
    note(barrier, i, 0);
    run(held(i), in, tag + i);
    hold(i + 2, part);
    sync();
    note(barrier, i, 1);
    if (i + 1 == n) break;
    if (thread() == 0) arrive(count);
    go_ahead(held(i + 1), in);
    if (i + 2 < n && held(i + 2).fused) fetch_weights(held(i + 2));
    if (thread() == 0) await(count, base + (i + 1) * blocks());
    sync();
    note(barrier, i, 2);
  }
}

KERNEL bitnet_phase(u64 list, u32 n, u32 index, u64 input) {
  const Input& in = *(const Input*)input;
  know_row(in);
  hold(index, part_at(list, n, index));
  sync();
  go_ahead(held(index), in);
  run(held(index), in, 0);
}
