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

/** The id of nothing. */
constexpr u32 NOBODY = 0xffffffffu;
/**
 * Of a candidate: what grows with its value (both zeros alike), and the complement of its id, so that of equals the lowest comes first.
 * Both 0: nothing, or NaN.
 */
struct Key {
  u32 value, other;
};
DEVICE Key key_of(float value, u32 id) {
  if (id == NOBODY || value != value) return {0, 0};
  return {lifted(value + 0.0f), ~id};
}
DEVICE bool before(const Key& a, const Key& b) { return a.value > b.value || (a.value == b.value && a.other > b.other); }

/** The best of all threads' keys. `round`: grows, so that nobody waits for those who still read. */
DEVICE Key best_of_block(const Key& mine, u32& round) {
  u32* const places = (u32*)pool() + (round & 1) * 2 * WARPS;
  const u32 lane = thread() & 31, value = warp_max(mine.value), other = warp_max(mine.value == value ? mine.other : 0);
  round++;
  if (lane == 0) places[thread() / 32] = value, places[WARPS + thread() / 32] = other;
  sync();
  const u32 v = places[lane % WARPS], o = places[WARPS + lane % WARPS], most = warp_max(v);
  return {most, warp_max(v == most ? o : 0)};
}

/** A list of so many ids at most, in shared memory. */
DEVICE u32* found_ids() { return (u32*)pool() + 4 * WARPS; }

/** The ids of the largest I.group of n candidates, keys `at(i)`, in order; NOBODY where there are no more. All may read them. */
template <class At> DEVICE const u32* largest_ids(const Instruction& I, u32 n, u32& round, At at) {
  // As many as lists of 40 want: encode.ts.
  constexpr u32 HELD = 5;
  u32* const ids = found_ids();
  const bool held = n <= HELD * THREADS;
  Key mine[HELD];
  UNROLL for (u32 k = 0; k < HELD; k++) {
    const u32 i = thread() + k * THREADS;
    mine[k] = held && i < n ? at(i) : Key{0, 0};
  }
  Key last{~0u, ~0u};
  // Who is slow may still read the list before.
  sync();
  ROLLED for (u32 j = 0; j < I.group; j++) {
    Key best{0, 0};
    if (held) {
      UNROLL for (u32 k = 0; k < HELD; k++) {
        if (before(mine[k], best)) best = mine[k];
      }
    } else {
      ROLLED for (u32 i = thread(); i < n; i += THREADS) {
        const Key one = at(i);
        if (before(last, one) && before(one, best)) best = one;
      }
    }
    last = best_of_block(best, round);
    UNROLL for (u32 k = 0; k < HELD; k++) {
      if (mine[k].other == last.other) mine[k] = {0, 0};
    }
    if (thread() == 0) ids[j] = ~last.other;
  }
  sync();
  return ids;
}

/** Into a list, with the sign that a zero has. */
DEVICE void note_list(const Instruction& I, u32 row, const u32* ids, u32* to) {
  const u32 j = thread();
  if (j >= I.group) return;
  to[j] = ids[j];
  to[I.group + j] = ids[j] == NOBODY ? 0 : load((const u32*)I.x + (u64)row * I.x_stride + ids[j]);
}

/** A list's j-th. */
DEVICE Key listed(const Instruction& I, const u32* list, u32 j) { return key_of(from_bits(load(list + I.group + j)), load(list + j)); }

APART void top_of_shares(const Instruction& I) {
  const TopMemory memory = top_memory(I);
  u32 round = 0;
  for (u32 item = block(); item < I.rows * I.parts; item += blocks()) {
    const RowShare share = share_of(I, item);
    const float* const logits = (const float*)I.x + (u64)share.row * I.x_stride + share.from;
    const u32* const ids = largest_ids(I, share.count, round, [&](u32 i) { return key_of(load(logits + i), share.from + i); });
    note_list(I, share.row, ids, memory.shares + (u64)item * 2 * I.group);
    if (thread() == 0 && item % I.parts == 0) memory.mass[share.row] = 0, memory.broken[share.row] = 0, memory.ended[share.row] = 0;
  }
}

/** Words told of a row: sum, count of NaN, one unused; then ids, then values. */
DEVICE u32* told_of(const Instruction& I, u32 row) { return (u32*)I.out + (u64)row * (4 + 2 * I.group); }

/** The row's largest, to the host: of the shares' lists. */
DEVICE void tell_list(const Instruction& I, u32 row, u32& round) {
  const u32* const lists = top_memory(I).shares + (u64)row * I.parts * 2 * I.group;
  const u32* const ids =
      largest_ids(I, I.parts * I.group, round, [&](u32 i) { return listed(I, lists + i / I.group * 2 * I.group, i % I.group); });
  note_list(I, row, ids, told_of(I, row) + 4);
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
  u32 row = NOBODY, round = 0;
  float largest = 0.0f;
  for (u32 item = block(); item < I.rows * I.parts; item += blocks()) {
    const RowShare share = share_of(I, item);
    if (share.row != row) {
      row = share.row;
      const u32* const lists = memory.shares + (u64)row * I.parts * 2 * I.group;
      Key first{0, 0};
      ROLLED for (u32 i = thread(); i < I.parts; i += THREADS) {
        const Key one = listed(I, lists + i * 2 * I.group, 0);
        if (before(one, first)) first = one;
      }
      first = best_of_block(first, round);
      largest = first.other == 0 ? 0.0f : lowered(first.value);
    }
    // A list by a block that has fewer shares, where some have.
    if (item % I.parts == I.parts - 1) tell_list(I, row, round);
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
