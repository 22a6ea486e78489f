// What a sampler needs of rows of logits: the largest of them and the sum of their weights (src/engine/top-logits.ts). Four
// instructions: the largest of each share of a row, then of the row; the weights, which need the largest; and both to the host.
#pragma once

#include "attention.cuh"

/** Of `group` largest logits of R rows, in scratch: R * parts lists, R sums, R counts of NaN, R lists; a list is ids, then values. */
struct TopMemory {
  u32* shares;
  u64* mass;
  u32* broken;
  u32* found;
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
  }
}

APART void top_of_rows(const Instruction& I) {
  const TopMemory memory = top_memory(I);
  for (u32 o = block(); o < I.rows; o += blocks()) {
    const u32* const lists = memory.shares + (u64)o * I.parts * 2 * I.group;
    u32* const list = memory.found + (u64)o * 2 * I.group;
    Ranked last{0.0f, NOBODY};
    for (u32 j = 0; j < I.group; j++) {
      if (j == 0 || last.id != NOBODY)
        last = next_of(I.parts * I.group, last, [&](u32 i) {
          const u32* const one = lists + i / I.group * 2 * I.group + i % I.group;
          return Ranked{from_bits(load(one + I.group)), load(one)};
        });
      if (thread() == 0) note_ranked(I, o, last.id, list + j);
    }
    if (thread() == 0) memory.mass[o] = 0, memory.broken[o] = 0;
  }
}

/** Weights in multiples of 2^-32: their sum has no order. The logits go to the host on the way, where they are wanted (`y`). */
APART void mass_of_shares(const Instruction& I) {
  const TopMemory memory = top_memory(I);
  for (u32 item = block(); item < I.rows * I.parts; item += blocks()) {
    const RowShare share = share_of(I, item);
    const float largest = from_bits(load(memory.found + (u64)share.row * 2 * I.group + I.group));
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
}

/** To the host, for each row: sum, count of NaN, and a word unused; then ids, then values. */
APART void tell_top(const Instruction& I) {
  const TopMemory memory = top_memory(I);
  const u32 words = 4 + 2 * I.group;
  for (u32 i = block() * THREADS + thread(); i < I.rows * words; i += blocks() * THREADS) {
    const u32 o = i / words, word = i % words;
    u32 v = 0;
    if (word < 2) v = load((const u32*)(memory.mass + o) + word);
    else if (word == 2) v = load(memory.broken + o);
    else if (word >= 4) v = load(memory.found + (u64)o * 2 * I.group + word - 4);
    ((u32*)I.out)[i] = v;
  }
}
