// What a sampler needs of rows of logits: the largest of them and the sum of their weights (src/engine/top-logits.ts). Two
// instructions: the largest of each share of a row; then the weights, which need the largest of all, beside them the row's list, and
// whoever ends last tells the host both.
#pragma once

#include "attention.cuh"

/** Of `group` largest logits of R rows, in scratch: R * parts lists, R sums, R counts of NaN and of who has ended; a list is ids, then values. */
struct TopMemory {
  u32* shares;
  u64* mass;
  u32* broken;
  u32* ended;
};
DEVICE TopMemory top_memory(const Instruction& I) {
  const u64 lists = (u64)I.rows * I.parts * 2 * I.group;
  u32* const shares = (u32*)I.scratch;
  u64* const mass = (u64*)(shares + lists);
  u32* const broken = (u32*)(mass + I.rows);
  return {shares, mass, broken, broken + I.rows};
}

/** Where a share of a row begins, and how long it is. */
struct RowShare {
  u32 row, from, count;
};
DEVICE RowShare share_of(const Instruction& I, u32 item) {
  const u32 each = (I.width + I.parts - 1) / I.parts, from = item % I.parts * each;
  return {item / I.parts, from, from < I.width ? (I.width - from < each ? I.width - from : each) : 0};
}

/** A number of a row and its id; nothing has the id NOBODY. */
constexpr u32 NOBODY = 0xffffffffu;
struct Ranked {
  float value;
  u32 id;
};
DEVICE bool before(float a, u32 a_id, float b, u32 b_id) { return a > b || (a == b && a_id < b_id); }

/** The first of n candidates that come behind `last`; the block's. `at(i)` gives the i-th. */
template <class At> DEVICE Ranked next_of(u32 n, const Ranked& last, At at) {
  Shared& s = shared();
  Ranked best{-from_bits(0x7f800000), NOBODY};
  // Four are on their way at once.
  ROLLED for (u32 from = thread(); from < n; from += 4 * THREADS) {
    Ranked four[4];
    UNROLL for (u32 k = 0; k < 4; k++) four[k] = from + k * THREADS < n ? at(from + k * THREADS) : Ranked{0.0f, NOBODY};
    UNROLL for (u32 k = 0; k < 4; k++) {
      const Ranked one = four[k];
      if (one.id == NOBODY || one.value != one.value) continue;
      if (last.id != NOBODY && !before(last.value, last.id, one.value, one.id)) continue;
      if (best.id == NOBODY || before(one.value, one.id, best.value, best.id)) best = one;
    }
  }
  const float most = block_max(best.value);
  // The id matters only where the value is the largest: its complement, so that the lowest is the largest.
  const u32 mine = best.value == most && best.id != NOBODY ? ~best.id : 0;
  const u32 found = warp_max(mine);
  sync();
  if ((thread() & 31) == 0) s.largest[thread() / 32] = found;
  sync();
  const u32 id = ~warp_max(s.largest[thread() & 15]);
  sync();
  return {most, id};
}

/** Into a list, with the sign that a zero has. */
DEVICE void note_ranked(const Instruction& I, u32 row, u32 id, u32* to) {
  to[0] = id;
  to[I.group] = id == NOBODY ? 0 : load((const u32*)I.x + (u64)row * I.x_stride + id);
}

/** A list's j-th. */
DEVICE Ranked ranked(const Instruction& I, const u32* list, u32 j) { return {from_bits(load(list + I.group + j)), load(list + j)}; }

APART void top_of_shares(const Instruction& I) {
  const TopMemory memory = top_memory(I);
  for (u32 item = block(); item < I.rows * I.parts; item += blocks()) {
    const RowShare share = share_of(I, item);
    const float* const logits = (const float*)I.x + (u64)share.row * I.x_stride + share.from;
    u32* const list = memory.shares + (u64)item * 2 * I.group;
    Ranked last{0.0f, NOBODY};
    for (u32 j = 0; j < I.group; j++) {
      if (j == 0 || last.id != NOBODY)
        last = next_of(share.count, last, [&](u32 i) { return Ranked{load(logits + i), share.from + i}; });
      if (thread() == 0) note_ranked(I, share.row, last.id, list + j);
    }
    if (thread() == 0 && item % I.parts == 0) memory.mass[share.row] = 0, memory.broken[share.row] = 0, memory.ended[share.row] = 0;
  }
}

/** Words told of a row: sum, count of NaN, one unused; then ids, then values. */
DEVICE u32* told_of(const Instruction& I, u32 row) { return (u32*)I.out + (u64)row * (4 + 2 * I.group); }

/** The row's largest, to the host: of the shares' lists. */
DEVICE void tell_list(const Instruction& I, u32 row) {
  const u32* const lists = top_memory(I).shares + (u64)row * I.parts * 2 * I.group;
  Ranked last{0.0f, NOBODY};
  for (u32 j = 0; j < I.group; j++) {
    if (j == 0 || last.id != NOBODY)
      last = next_of(I.parts * I.group, last, [&](u32 i) { return ranked(I, lists + i / I.group * 2 * I.group, i % I.group); });
    if (thread() == 0) note_ranked(I, row, last.id, told_of(I, row) + 4 + j);
  }
}

/** Adds the weights of a share, in multiples of 2^-32: their sum has no order. The logits go to the host on the way, where they are wanted (`y`). */
DEVICE void add_weights(const Instruction& I, const RowShare& share, float largest) {
  const TopMemory memory = top_memory(I);
  const float* const logits = (const float*)I.x + (u64)share.row * I.x_stride + share.from;
  float* const kept = I.y ? (float*)I.y + (u64)share.row * I.width + share.from : nullptr;
  u64 mass = 0;
  bool broken = false;
  ROLLED for (u32 from = thread(); from < share.count; from += 4 * THREADS) {
    float four[4];
    UNROLL for (u32 k = 0; k < 4; k++) four[k] = from + k * THREADS < share.count ? load(logits + from + k * THREADS) : largest;
    UNROLL for (u32 k = 0; k < 4; k++) {
      const u32 i = from + k * THREADS;
      if (i >= share.count) continue;
      if (kept) kept[i] = four[k];
      const float weight = exp_f32(four[k] - largest);
      if (weight != weight) broken = true;
      else mass += nearest64(weight * 4294967296.0f);
    }
  }
  // A warp's first, in pieces of 16 bits: all threads would queue for one place.
  const u64 low = (u32)warp_sum((i32)(mass & 0xffff)), middle = (u32)warp_sum((i32)(mass >> 16 & 0xffff));
  const u64 high = (u32)warp_sum((i32)(mass >> 32));
  if ((thread() & 31) == 0) add_global64(memory.mass + share.row, low + (middle << 16) + (high << 32));
  if (broken) add_global(memory.broken + share.row, 1);
}

APART void tell_top(const Instruction& I) {
  const TopMemory memory = top_memory(I);
  u32 row = NOBODY;
  float largest = 0.0f;
  for (u32 item = block(); item < I.rows * I.parts; item += blocks()) {
    const RowShare share = share_of(I, item);
    if (share.row != row) {
      row = share.row;
      const u32* const lists = memory.shares + (u64)row * I.parts * 2 * I.group;
      const Ranked first = next_of(I.parts, Ranked{0.0f, NOBODY}, [&](u32 i) { return ranked(I, lists + i * 2 * I.group, 0); });
      largest = first.id == NOBODY ? 0.0f : first.value;
    }
    // A list by a block that has fewer shares, where some have.
    if (item % I.parts == I.parts - 1) tell_list(I, row);
    add_weights(I, share, largest);
    fence();
    sync();
    if (thread() == 0 && add_global(memory.ended + row, 1) == I.parts - 1) {
      fence();
      u32* const to = told_of(I, row);
      const u64 mass = load(memory.mass + row);
      to[0] = (u32)mass;
      to[1] = (u32)(mass >> 32);
      to[2] = load(memory.broken + row);
      to[3] = 0;
    }
  }
}
