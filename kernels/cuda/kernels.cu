// The two ways to run a step. `bitnet_step`, of one row: one launch, one block on each multiprocessor, a barrier of the grid between
// instructions; while blocks wait, their next weights are on the way. The others: one launch an instruction, for steps of several
// rows and cards that the first does not suit. What takes most of the time of several rows has kernels of its own, so that each has
// all registers: as functions of one kernel they spilled, and waited for local memory.
#include "attention_rows.cuh"
#include "hybrid.cuh"
#include "products_many.cuh"
#include "rows_many.cuh"
#include "top.cuh"

/** What of an instruction can be had before the instructions ahead of it are done: its weights, what is in the cache. */
DEVICE void go_ahead(const Instruction& I, const Input& in) {
  if (I.op == TERNARY && I.rows == 1) ternary_ahead(I);
  if (I.op == ATTEND_ONE || I.op == SCORES || I.op == VALUES) attend_ahead(I, in);
  if (I.op == DELTA) delta_ahead(I, in);
}

/** What of the instruction after the next one comes into L2 meanwhile: group-scaled weights, the weights of norms. */
APART void fetch_weights(const Instruction& I) {
  if (I.fused && I.norm) {
    for (u32 i = thread() * 32; i < I.width; i += THREADS * 32) fetch((const float*)I.weight + i);
  }
  if (I.op != GROUPED) return;
  const u32 items = items_of(I), each = I.ending == GATE ? 2 : 1, bytes = (I.width + 3) / 4 * 64;
  for (u32 item = block(); item < items; item += blocks()) {
    for (u32 sub = 0; sub < each; sub++) {
      u32 tile = item;
      const Matrix& m = I.m[each == 2 ? sub : part_of(I, tile)];
      for (u32 i = thread() * 128; i < bytes; i += THREADS * 128) fetch((const char*)m.w + (u64)tile * bytes + i);
    }
  }
}

/** `many`: of several rows, what has no kernel of its own. */
DEVICE void run(const Instruction& I, const Input& in, bool many) {
  switch (I.op) {
    case EMBED:
      run_embed(I, in);
      break;
    case ROWS:
      run_rows(I);
      break;
    case TERNARY:
      ternary_one(I);
      break;
    case GROUPED:
      if (I.group % 32 != 0) grouped_plain(I);
      else if (I.rows == 1) grouped_rows<true>(I);
      else if (many) grouped_rows<false>(I);
      break;
    case INT8:
      int8_rows<true, 1>(I);
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
    case READY:
      if (many) ready(I, in);
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
    case TOP_OF_SHARES:
      top_of_shares(I);
      break;
    case TOP:
      top_of_rows(I);
      break;
    case MASS:
      mass_of_shares(I);
      break;
    case TELL_TOP:
      tell_top(I);
      break;
    case SPLIT:
      run_split(I);
      break;
    case CONV:
      run_conv(I, in);
      break;
    case LENGTHS:
      run_lengths(I);
      break;
    case DELTA:
      run_delta(I, in);
      break;
    case ROUTE:
      run_route(I);
      break;
    case SORT:
      run_sort(I);
      break;
    case EXPERTS:
      run_experts(I);
      break;
    case ADD_EXPERTS:
      run_add_experts(I);
      break;
    case DENSE_SMALL:
      run_dense_small(I);
      break;
    case SEGMENTS:
      run_segments(I);
      break;
    case ROUND:
      run_round(I);
      break;
    case NARROW_ROWS:
      run_narrow(I);
      break;
  }
}

DEVICE const Instruction& held(u32 i) { return *(const Instruction*)shared().ring[i % 3]; }

DEVICE void know_row(const Input& in) {
  if (thread() != 0) return;
  shared().position = *(const u32*)in.positions;
  shared().table_row = *(const u32*)in.table_rows;
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

/** `base`: the barrier's count before this launch; it grows by the grid at every instruction. */
KERNEL bitnet_step(u64 list, u32 n, u32 base, u64 input, u64 barrier) {
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
    run(held(i), in, false);
    hold(i + 2, part);
    sync();
    note(barrier, i, 1);
    if (i + 1 == n) break;
    if (thread() == 0) arrive(count);
    go_ahead(held(i + 1), in);
    if (i + 2 < n && (held(i + 2).op == GROUPED || held(i + 2).fused)) fetch_weights(held(i + 2));
    if (thread() == 0) await(count, base + (i + 1) * blocks());
    sync();
    note(barrier, i, 2);
  }
}

/** The instruction of a launch of its own. */
DEVICE const Instruction& alone(u64 list, u32 n, u32 index) {
  hold(index, part_at(list, n, index));
  sync();
  return held(index);
}

KERNEL bitnet_phase(u64 list, u32 n, u32 index, u64 input) {
  const Input& in = *(const Input*)input;
  know_row(in);
  const Instruction& I = alone(list, n, index);
  go_ahead(I, in);
  run(I, in, true);
}

KERNEL bitnet_rows(u64 list, u32 n, u32 index, u64) { run_all_rows(alone(list, n, index)); }
KERNEL bitnet_some(u64 list, u32 n, u32 index, u64) {
  const Instruction& I = alone(list, n, index);
  ternary_some_ahead(I);
  ternary_some(I);
}
KERNEL bitnet_tiles(u64 list, u32 n, u32 index, u64) { ternary_tiles(alone(list, n, index)); }
KERNEL bitnet_head(u64 list, u32 n, u32 index, u64) { int8_of_rows(alone(list, n, index)); }
KERNEL bitnet_attend_rows(u64 list, u32 n, u32 index, u64 input) { attend_rows(alone(list, n, index), *(const Input*)input); }
KERNEL bitnet_attend_batch(u64 list, u32 n, u32 index, u64 input) { attend_batch(alone(list, n, index), *(const Input*)input); }
