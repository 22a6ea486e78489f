// Products of one row with int8 and with group-scaled matrices. Weights come through a ring in shared memory, of int8 one for each
// warp, whose first pieces are asked for before the grid's barrier; `splits` of the instruction says how many places a ring has.
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

// ---- grouped: a block takes panels of 64 rows, or where they are few halves or quarters of them (`cut`: 1 << cut to a panel), so that
// more blocks have some. What it reads comes in pieces, `chunk` groups of an item each, of gate and up both; as many as there is room for
// are asked for before the grid's barrier. A warp of the block takes every 16th group of a piece. Both planes of the codes are columns of
// one `mma`.

/** A block's pieces one after the other. */
struct Piece {
  u32 item, first;
  DEVICE_MEMBER void begin() {
    item = block();
    first = 0;
  }
  DEVICE_MEMBER void next(const Instruction& I) {
    first += I.chunk;
    if (first < I.groups) return;
    first = 0;
    item += blocks();
  }
  DEVICE_MEMBER u32 groups(const Instruction& I) const { return I.groups - first < I.chunk ? I.groups - first : I.chunk; }
};

/** Of an item's group: a word's codes of 4 columns are 4 bytes; all 64 scales of two bytes or four. */
DEVICE u32 group_bytes(const Instruction& I) { return I.group * 16 >> I.cut; }
constexpr u32 GROUP_SCALES = 256;
/** What a piece has of a matrix: codes, then scales. */
DEVICE u32 part_bytes(const Instruction& I) { return I.chunk * (group_bytes(I) + GROUP_SCALES); }
DEVICE u32 piece_bytes(const Instruction& I) { return part_bytes(I) << (I.ending == GATE); }
/** Whole panels lie in one stretch. */
DEVICE bool in_stretches(const Instruction& I) { return bulk_copies() && I.cut == 0; }

/** By all threads. */
DEVICE void ask_piece(const Instruction& I, const Piece& p, char* to, u32 place) {
  const bool stretches = in_stretches(I);
  if (stretches && thread() != ASKER) return;
  u64* const arrival = &shared().arrivals[PIECES_ARRIVE + place];
  const u32 cut = I.cut, here = p.groups(I), each = I.ending == GATE ? 2 : 1, part = part_bytes(I), line = 64 >> cut;
  u32 panel = p.item >> cut, all = 0;
  const Matrix* m = &I.m[each == 2 ? 0 : part_of(I, panel)];
  const u32 first = panel * I.groups + p.first;
  ROLLED for (u32 sub = 0; sub < each; sub++, m++, to += part) {
    const u32 scales = m->half ? 128 : 256, codes = here * group_bytes(I);
    const char* const w = (const char*)m->w + (u64)first * (I.group * 16);
    const char* const s = (const char*)m->scales + (u64)first * scales;
    char* const behind = to + I.chunk * group_bytes(I);
    if (stretches) {
      copy_bulk(to, w, codes, arrival);
      copy_bulk(behind, s, here * scales, arrival);
      all += codes + here * scales;
      continue;
    }
    // Of lines of 64 bytes, which are 4 columns of a panel, the item's.
    const char* const from = w + (p.item & ((1 << cut) - 1)) * line;
    ROLLED for (u32 at = thread() * 16; at < codes; at += THREADS * 16) copy_ahead(to + at, from + (at >> (6 - cut)) * 64 + (at & (line - 1)));
    ROLLED for (u32 at = thread() * 16; at < here * scales; at += THREADS * 16) copy_ahead(behind + at, s + at);
  }
  if (stretches) expect(arrival, all);
}

/**
 * A group of an item: rows of an `mma` are a field of 16 words (CUT 0), two fields of 8 (1), or four of 4 (2). `word`: the panel's that
 * is the item's first; `group`: of the row.
 */
template <u32 CUT> DEVICE void group_of_one(const Instruction& I, const char* w, const char* scales, u32 half, const char* codes, u32 group, u32 word, float* to) {
  constexpr u32 WORDS = 16 >> CUT, LINE = 4 * WORDS, SETS = 4 >> CUT;
  const u32 lane = thread() & 31, g = lane / 4, piece = lane & 3, steps = I.group / 32, stride = plane_stride(I);
  const char* const a = w + piece * LINE + (CUT == 0 ? g * 8 : g % WORDS * 4);
  // Column g of the codes: hi where it is even, else lo.
  const char* const b = codes + (g & 1) * stride + group * I.group + piece * 8;
  // Columns of a plane are alike: each of a row's four lanes has other results, a field's; of whole panels two neighbours'.
  const u32 field = CUT == 2 ? g / 4 + 2 * (piece & 1) : piece, of = CUT == 0 ? 2 * g : g % WORDS, row = field * 16 + word + of;
  u32 raw[2];
  if (CUT == 0) {
    raw[0] = half ? *(const u32*)(scales + 2 * row) : ((const u32*)scales)[row];
    raw[1] = half ? raw[0] >> 16 : ((const u32*)scales)[row + 1];
  } else {
    raw[0] = half ? ((const unsigned short*)scales)[row] : ((const u32*)scales)[row];
  }
  i32 of_codes = 0;
  {
    const u32 count = summed(I) == 128 ? steps / 4 : steps;
    const i32* const sums = (const i32*)(codes + 2 * stride) + group * count;
    ROLLED for (u32 k = 0; k < count; k++) of_codes += sums[k];
  }
  i32 sum[SETS][4];
  UNROLL for (u32 f = 0; f < SETS; f++) {
    UNROLL for (u32 e = 0; e < 4; e++) sum[f][e] = 0;
  }
  UNROLL4 for (u32 k = 0; k < steps; k++) {
    const char* const at = a + k * 8 * LINE;
    const u64 both = *(const u64*)(b + k * 32);
    const u32 b0 = (u32)both, b1 = (u32)(both >> 32);
    if (CUT == 0) {
      const u64 x = *(const u64*)at, y = *(const u64*)(at + 4 * LINE);
      UNROLL for (u32 f = 0; f < SETS; f++)
        mma_u8(sum[f], (u32)x & mask_of(f), (u32)(x >> 32) & mask_of(f), (u32)y & mask_of(f), (u32)(y >> 32) & mask_of(f), b0, b1);
    } else {
      const u32 x = *(const u32*)at, y = *(const u32*)(at + 4 * LINE);
      UNROLL for (u32 f = 0; f < SETS; f++) {
        const u32 low = CUT == 1 ? mask_of(2 * f) : mask_of(g / 4), high = CUT == 1 ? mask_of(2 * f + 1) : mask_of(g / 4 + 2);
        mma_u8(sum[f], x & low, x & high, y & low, y & high, b0, b1);
      }
    }
  }
  auto result = [&](i32 hi, i32 lo, u32 scale) {
    const i32 all = 256 * (hi >> (2 * field)) + (lo >> (2 * field)) - of_codes;
    return (float)all * (half ? half_float(scale & 0xffff) : from_bits(scale));
  };
  float* const place = to + field * WORDS + of;
  if (CUT == 0) {
    i32 mine[4];
    UNROLL for (u32 e = 0; e < 4; e++) {
      const i32 even = piece & 2 ? sum[SETS / 2][e] : sum[0][e], odd = piece & 2 ? sum[SETS - 1][e] : sum[SETS / 4][e];
      mine[e] = piece & 1 ? odd : even;
    }
    *(Pair*)place = {result(mine[0], mine[1], raw[0]), result(mine[2], mine[3], raw[1])};
  } else {
    i32 hi = piece & 1 ? sum[0][2] : sum[0][0], lo = piece & 1 ? sum[0][3] : sum[0][1];
    if (CUT == 1) {
      const i32 other_hi = piece & 1 ? sum[SETS - 1][2] : sum[SETS - 1][0], other_lo = piece & 1 ? sum[SETS - 1][3] : sum[SETS - 1][1];
      hi = piece & 2 ? other_hi : hi;
      lo = piece & 2 ? other_lo : lo;
    }
    const float y = result(hi, lo, raw[0]);
    if (CUT == 1 || piece < 2) *place = y;
  }
}

/** Products of a group with a row's 64 rows, or as many as an item has. */
constexpr u32 PRODUCT_ROWS = 64;
/** A piece's: [gate or up][group][row]. */
template <u32 CUT> DEVICE void piece_of_one(const Instruction& I, const Piece& p, const char* w, const char* codes, float* products) {
  const u32 warp = thread() / 32, here = p.groups(I), each = I.ending == GATE ? 2 : 1, chunk = I.chunk, bytes = group_bytes(I);
  u32 panel = p.item >> CUT;
  const Matrix* m = &I.m[each == 2 ? 0 : part_of(I, panel)];
  const u32 word = (p.item & ((1 << CUT) - 1)) * (16 >> CUT);
  ROLLED for (u32 sub = 0; sub < each; sub++, m++, w += part_bytes(I), products += chunk * PRODUCT_ROWS) {
    const u32 half = m->half, scales = half ? 128 : 256;
    ROLLED for (u32 k = warp; k < here; k += WARPS)
      group_of_one<CUT>(I, w + k * bytes, w + chunk * bytes + k * scales, half, codes, p.first + k, word, products + k * PRODUCT_ROWS);
  }
}

DEVICE void grouped_one(const Instruction& I, const Gate& gate) {
  Shared& s = shared();
  const u32 tid = thread(), places = I.splits, asked = s.asked, cut = I.cut, words = 16 >> cut, rows = 4 * words;
  const u32 items = I.items << cut, each = I.ending == GATE ? 2 : 1, bytes = piece_bytes(I);
  char* const codes = codes_place(I);
  float* const products = (float*)after_codes<16>(I);  // those of a piece, and of the one before
  char* const ring = shared_memory() + shared_size() - places * bytes;
  const bool busy = block() < items, stretches = in_stretches(I);
  /** Where a result of an item goes that is this thread's: field by field. Null past the matrix. */
  auto place_of = [&](u32 item) -> float* {
    u32 panel = item >> cut;
    const Matrix& m = I.m[each == 2 ? 0 : part_of(I, panel)];
    const u32 row = panel * 64 + (tid >> (4 - cut)) * 16 + (item & ((1 << cut) - 1)) * words + (tid & (words - 1));
    return tid < rows && row < m.rows ? (float*)m.out + row : nullptr;
  };
  Piece ahead;
  ahead.begin();
  u32 what = I.norm ? NORM_ASKED : 0;
  float* to = nullptr;
  if (busy) {
    one_ahead(I);
    ROLLED for (u32 k = 0; k < places; k++) {
      if (ahead.item < items) {
        ask_piece(I, ahead, ring + k * bytes, k);
        if (stretches) what |= 1 << (PIECES_ARRIVE + k);
        ahead.next(I);
      }
      copies_asked();
    }
    to = place_of(block());
  }
  mark(18);
  gate.pass();
  mark(19);
  if (!busy) return;
  count_asked(asked, what);
  // What the first item's results are added to, asked for early.
  float old = I.ending == ADD && to ? load(to) : 0.0f;
  mark(0);
  // Of the groups of copies the norm's was the first.
  make_one<16>(I, codes, places, asked);
  Piece p;
  p.begin();
  u32 place = 0, half = 0, parity = asked >> PIECES_ARRIVE;
  float total[2] = {0.0f, 0.0f};
  ROLLED for (;;) {
    const char* const w = ring + place * bytes;
    float* const mine = products + half * (each * I.chunk * PRODUCT_ROWS);
    if (stretches) await_bulk(&s.arrivals[PIECES_ARRIVE + place], parity >> place & 1);
    mark(7);
    if (cut == 0) piece_of_one<0>(I, p, w, codes, mine);
    else if (cut == 1) piece_of_one<1>(I, p, w, codes, mine);
    else piece_of_one<2>(I, p, w, codes, mine);
    const u32 item = p.item, here = p.groups(I);
    p.next(I);
    const bool more = p.item < items;
    // The next piece's, of this thread; behind the barrier of all.
    if (more && !stretches && places > 1) copies_there_but(places - 2);
    mark(8);
    sync();
    mark(9);
    if (ahead.item < items) {
      ask_piece(I, ahead, ring + place * bytes, place);
      ahead.next(I);
      if (stretches && tid == 0) s.asked ^= 1 << (PIECES_ARRIVE + place);
    }
    if (more) {
      copies_asked();
      if (!stretches && places == 1) {
        copies_there<0>();
        sync();
      }
    }
    parity ^= 1 << place;
    place = place + 1 == places ? 0 : place + 1;
    half ^= 1;
    if (tid < rows) {
      // Both chains at once; of a single one twice the same.
      const float *one = mine + tid, *two = one + (each - 1) * (I.chunk * PRODUCT_ROWS);
      u32 k = 0;
      ROLLED for (; k + 16 <= here; k += 16, one += 16 * PRODUCT_ROWS, two += 16 * PRODUCT_ROWS) {
        float a[16], b[16];
        UNROLL for (u32 i = 0; i < 16; i++) a[i] = one[i * PRODUCT_ROWS], b[i] = two[i * PRODUCT_ROWS];
        UNROLL for (u32 i = 0; i < 16; i++) total[0] = total[0] + a[i], total[1] = total[1] + b[i];
      }
      ROLLED for (; k < here; k++, one += PRODUCT_ROWS, two += PRODUCT_ROWS) total[0] = total[0] + *one, total[1] = total[1] + *two;
    }
    mark(11);
    // Of the item more groups follow.
    if (p.first > 0) continue;
    if (item != block()) {
      to = place_of(item);
      if (I.ending == ADD && to) old = load(to);
    }
    if (to) {
      float y = total[0] * s.scale;
      if (each == 2) {
        const float up = total[1] * s.scale;
        // The commonest here.
        y = I.gate == SILU ? divide(y, 1.0f + exp_f32(-y)) * up : joined(I, y, up);
      }
      *to = I.ending == ADD ? old + y : y;
    }
    if (!more) break;
    total[0] = total[1] = 0.0f;
  }
}
