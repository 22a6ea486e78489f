// Products of one row with int8 and with group-scaled matrices. Weights come through a ring in shared memory, one for each
// warp, whose first pieces are asked for before the grid's barrier; `splits` of the instruction says how many a ring has.
#pragma once

#include "products.cuh"

// ---- int8: a warp takes rows, whole, four neighbours at a time. A lane's bytes are asked for and read by itself.

/** Bytes of a place of the ring, and of a lane's next 16 from its last. */
DEVICE u32 int8_piece(const Instruction& I) { return (I.code_stride + 511) / 512 * 512; }
constexpr u32 LANES_BYTES = 32 * 16;

DEVICE void ask_int8(const char* from, char* to, u32 bytes, bool there) {
  if (there) {
    ROLLED for (u32 at = (thread() & 31) * 16; at < bytes; at += LANES_BYTES) copy_ahead(to + at, from + at);
  }
  copies_asked();
}

DEVICE void int8_one(const Instruction& I, const Gate& gate) {
  const u32 lane = thread() & 31, warp = thread() / 32, places = I.splits, bytes = I.code_stride, piece = int8_piece(I);
  const Matrix& m = I.m[0];
  const u32 rows = m.rows, stride = m.stride, step = blocks() * WARPS, asked = shared().asked;
  const float* const scales = (const float*)m.scales;
  float* const out = (float*)m.out;
  char* const ring = shared_memory() + shared_size() - (WARPS - warp) * places * piece;
  one_ahead(I);
  // Rows follow in fours: this warp's k-th is number 4 (k / 4) of all warps' + k % 4.
  const u32 first = (block() * WARPS + warp) * 4;
  auto row_of = [&](u32 k) { return first + k / 4 * (4 * step) + k % 4; };
  auto ask = [&](u32 k, char* to) {
    const u32 row = row_of(k);
    ask_int8((const char*)m.w + (u64)row * stride, to, bytes, row < rows);
  };
  ROLLED for (u32 k = 0; k < places; k++) ask(k, ring + k * piece);
  gate.pass();
  count_asked(asked, I.norm ? NORM_ASKED : 0);
  char* const codes = codes_place(I);
  make_one<8>(I, codes, places, asked);
  const float scale = shared().scale;
  u32 place = 0;
  float row_scale = 0.0f, mine = 0.0f;
  ROLLED for (u32 k = 0; row_of(k) < rows; k++) {
    const u32 row = row_of(k);
    if (k % 4 == 0) row_scale = lane < 4 && row + lane < rows ? stream_float(scales + row + lane) : 0.0f;
    copies_there_but(places - 1);
    char* const at = ring + place * piece;
    i32 a = 0, b = 0;
    UNROLL4 for (u32 c = lane * 16; c < bytes; c += LANES_BYTES) {
      const Words w = *(const Words*)(at + c), x = *(const Words*)(codes + c);
      a = dot4(w.x, x.x, a);
      b = dot4(w.y, x.y, b);
      a = dot4(w.z, x.z, a);
      b = dot4(w.w, x.w, b);
    }
    ask(k + places, at);
    const i32 sum = warp_sum(a + b);
    if (lane == k % 4) mine = (float)sum;
    // Four results in one write, which may go to another machine's memory.
    if ((k % 4 == 3 || row + 1 == rows) && lane <= k % 4) out[row - k % 4 + lane] = mine * divide(row_scale, scale);
    place = place + 1 == places ? 0 : place + 1;
  }
}

// ---- grouped: a block takes panels of 64 rows, or where they are few quarters of them (`cut` 2: 1 << 2 to a panel), so that more
// blocks have some; a warp of it every 16th group. A piece is a group's codes and scales. Both planes of the codes are columns of one `mma`.

/** An item's rows: of 16 words of four rows each so many. */
DEVICE u32 item_words(const Instruction& I) { return 16 >> I.cut; }
/** Of an item's group: a word's codes of 4 columns are 4 bytes; all 64 scales of two bytes or four. */
DEVICE u32 group_bytes(const Instruction& I) { return I.group * item_words(I); }
DEVICE u32 group_piece(const Instruction& I) { return group_bytes(I) + 256; }
DEVICE char* group_ring(const Instruction& I, u32 warp) {
  return shared_memory() + shared_size() - (WARPS - warp) * I.splits * group_piece(I);
}

/** A warp's pieces one after the other: groups, matrices of an item, items. */
struct GroupWalk {
  u32 warp, item, sub, group, scales;
  /** This lane's first 16 bytes. */
  const char *w, *s;
  DEVICE_MEMBER void locate(const Instruction& I, u32 items, u32 each, u32 groups) {
    if (item >= items) return;
    const u32 lane = thread() & 31, cut = I.cut;
    u32 panel = item >> cut;
    const Matrix& m = I.m[each == 2 ? sub : part_of(I, panel)];
    const u32 first = panel * groups + warp;
    scales = m.half ? 128 : 256;
    // Lines of 64 bytes are 4 columns of a panel; 4 >> cut times 16 bytes of each are the item's.
    w = (const char*)m.w + (u64)first * (I.group * 16) + (item & ((1 << cut) - 1)) * (64 >> cut) + (lane >> (2 - cut)) * 64 + (lane & ((4 >> cut) - 1)) * 16;
    s = (const char*)m.scales + (u64)first * scales + lane * 16;
  }
  DEVICE_MEMBER void begin(const Instruction& I, u32 items, u32 each, u32 groups) {
    warp = group = thread() / 32;
    item = block();
    sub = 0;
    locate(I, items, each, groups);
  }
  DEVICE_MEMBER void next(const Instruction& I, u32 items, u32 each, u32 groups) {
    group += WARPS;
    if (group < groups) {
      w += WARPS * 16 * I.group;
      s += WARPS * scales;
      return;
    }
    group = warp;
    if (++sub == each) {
      sub = 0;
      item += blocks();
    }
    locate(I, items, each, groups);
  }
  DEVICE_MEMBER void ask(const Instruction& I, u32 items, u32 groups, char* to) const {
    if (item < items && group < groups) {
      const u32 at = (thread() & 31) * 16, bytes = group_bytes(I), step = 512 << I.cut;
      const char* from = w;
      ROLLED for (u32 i = at; i < bytes; i += 512, from += step) copy_ahead(to + i, from);
      if (at < scales) copy_ahead(to + bytes + at, s);
    }
    copies_asked();
  }
};

/** Groups whose products lie in shared memory at once. */
constexpr u32 GROUPS_AT_ONCE = 3 * WARPS;

/**
 * A group of an item, a panel (CUT 0) or a quarter of one (2): rows of an `mma` are a field of 16 words, or four of 4. `word`: the
 * panel's that is the item's first.
 */
template <u32 CUT> DEVICE void group_of_one(const Instruction& I, const char* w, const char* codes, u32 half, u32 group, u32 word, float* to) {
  constexpr u32 WORDS = 16 >> CUT, LINE = 4 * WORDS, SETS = 4 >> CUT;
  const u32 lane = thread() & 31, g = lane / 4, piece = lane & 3, steps = I.group / 32, code_stride = I.code_stride;
  const char* const a = w + piece * LINE + (CUT == 0 ? g * 8 : g % WORDS * 4);
  // Column g of the codes: hi where it is even, else lo.
  const char* const b = codes + (g & 1) * code_stride + group * I.group + piece * 4;
  const char* const scales = w + group_bytes(I);
  i32 sum[SETS][4];
  UNROLL for (u32 f = 0; f < SETS; f++) {
    UNROLL for (u32 e = 0; e < 4; e++) sum[f][e] = 0;
  }
  UNROLL4 for (u32 k = 0; k < steps; k++) {
    const char* const at = a + k * 8 * LINE;
    const u32 b0 = *(const u32*)(b + k * 32), b1 = *(const u32*)(b + k * 32 + 16);
    if (CUT == 0) {
      const u64 x = *(const u64*)at, y = *(const u64*)(at + 4 * LINE);
      UNROLL for (u32 f = 0; f < SETS; f++)
        mma_u8(sum[f], (u32)x & mask_of(f), (u32)(x >> 32) & mask_of(f), (u32)y & mask_of(f), (u32)(y >> 32) & mask_of(f), b0, b1);
    } else {
      const u32 x = *(const u32*)at, y = *(const u32*)(at + 4 * LINE);
      const u32 low = mask_of(g / 4), high = mask_of(g / 4 + 2);
      mma_u8(sum[0], x & low, x & high, y & low, y & high, b0, b1);
    }
  }
  i32 of_codes = 0;
  UNROLL4 for (u32 k = 0; k < steps; k++) of_codes += ((const i32*)(codes + 2 * code_stride))[group * steps + k];
  auto result = [&](u32 field, u32 of, i32 hi, i32 lo) {
    const i32 all = 256 * (hi >> (2 * field)) + (lo >> (2 * field)) - of_codes;
    to[field * WORDS + of] = (float)all * group_scale(scales, half, field * 16 + word + of);
  };
  // Columns of a plane are alike: each of a row's four lanes has other results.
  i32 mine[4];
  UNROLL for (u32 e = 0; e < 4; e++) {
    mine[e] = sum[0][e];
    UNROLL for (u32 f = 1; f < SETS; f++) mine[e] = piece == f ? sum[f][e] : mine[e];
  }
  if (CUT == 0) {
    result(piece, 2 * g, mine[0], mine[1]);
    result(piece, 2 * g + 1, mine[2], mine[3]);
  } else if (piece < 2) {
    result(g / 4 + 2 * piece, g & 3, piece ? mine[2] : mine[0], piece ? mine[3] : mine[1]);
  }
}

DEVICE void grouped_one(const Instruction& I, const Gate& gate) {
  const Shared& s = shared();
  const u32 tid = thread(), warp = tid / 32, places = I.splits, asked = s.asked, cut = I.cut, words = item_words(I), rows = 4 * words;
  const u32 items = I.items << cut, each = I.ending == GATE ? 2 : 1, groups = I.width / I.group, bytes = group_piece(I);
  char* const codes = codes_place(I);
  float* const products = (float*)after_codes<16>(I);  // [gate or up][group][row]
  char* const ring = group_ring(I, warp);
  const bool busy = block() < items;
  if (busy) {
    one_ahead(I);
    GroupWalk ahead;
    ahead.begin(I, items, each, groups);
    char* to = ring;
    ROLLED for (u32 k = 0; k < places; k++, to += bytes) {
      ahead.ask(I, items, groups, to);
      ahead.next(I, items, each, groups);
    }
  }
  mark(18);
  gate.pass();
  mark(19);
  if (!busy) return;
  count_asked(asked, I.norm ? NORM_ASKED : 0);
  /** Where a result of an item goes that is this thread's: field by field. Null past the matrix. */
  auto place_of = [&](u32 item) -> float* {
    u32 panel = item >> cut;
    const Matrix& m = I.m[each == 2 ? 0 : part_of(I, panel)];
    const u32 row = panel * 64 + (tid >> (4 - cut)) * 16 + (item & ((1 << cut) - 1)) * words + (tid & (words - 1));
    return tid < rows && row < m.rows ? (float*)m.out + row : nullptr;
  };
  // What the first item's results are added to, asked for early.
  float* to = place_of(block());
  float old = I.ending == ADD && to ? load(to) : 0.0f;
  mark(0);
  // Of the groups of copies the norm's was the first.
  make_one<16>(I, codes, places, asked);
  GroupWalk from;
  from.begin(I, items, each, groups);
  ROLLED for (u32 k = 0; k < places; k++) from.next(I, items, each, groups);
  u32 place = 0;
  ROLLED for (u32 item = block(); item < items; item += blocks()) {
    float total[2] = {0.0f, 0.0f};
    u32 panel = item >> cut;
    const u32 part = each == 2 ? 0 : part_of(I, panel), word = (item & ((1 << cut) - 1)) * words;
    // Gate and up at once, where a row's groups are.
    const bool together = groups <= GROUPS_AT_ONCE;
    ROLLED for (u32 sub = 0; sub < each; sub++) {
      const u32 half = I.m[each == 2 ? sub : part].half;
      float* const product = products + sub * (GROUPS_AT_ONCE * rows);
      ROLLED for (u32 first = 0; first < groups; first += GROUPS_AT_ONCE) {
        const u32 here = groups - first < GROUPS_AT_ONCE ? groups - first : GROUPS_AT_ONCE;
        ROLLED for (u32 group = warp; group < here; group += WARPS) {
          mark(10);
          copies_there_but(places - 1);
          sync_warp();
          mark(7);
          const char* const w = ring + place * bytes;
          float* const results = product + group * rows;
          if (cut == 0) group_of_one<0>(I, w, codes, half, first + group, word, results);
          else group_of_one<2>(I, w, codes, half, first + group, word, results);
          sync_warp();
          from.ask(I, items, groups, ring + place * bytes);
          from.next(I, items, each, groups);
          place = place + 1 == places ? 0 : place + 1;
        }
        if (together && sub + 1 < each) continue;
        mark(8);
        sync();
        mark(9);
        if (tid < rows) {
          auto add = [&](float& sum, const float* p) {
            UNROLL4 for (u32 k = 0; k < here; k++) sum = sum + p[k * rows];
          };
          if (sub == 0 || together) add(total[0], products + tid);
          if (sub == 1) add(total[1], products + GROUPS_AT_ONCE * rows + tid);
        }
        // Before others come in their place.
        if (!together || item + blocks() < items) sync();
      }
    }
    if (item != block()) {
      to = place_of(item);
      if (I.ending == ADD && to) old = load(to);
    }
    if (to) {
      float y = total[0] * s.scale;
      if (each == 2) y = joined(I, y, total[1] * s.scale);
      *to = I.ending == ADD ? old + y : y;
    }
  }
}
