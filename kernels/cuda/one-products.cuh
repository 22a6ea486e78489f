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

/** What a warp of `int8_one` goes through: found anew where it is wanted, since registers are few in between. */
struct Int8Rows {
  u32 lane, rows, stride, first, step;
  u64 w;
  char* ring;
  DEVICE_MEMBER void of(const Instruction& I) {
    const u32 tid = thread_anew(), warp = tid / 32;
    lane = tid & 31;
    rows = I.m[0].rows;
    stride = I.m[0].stride;
    w = I.m[0].w;
    step = blocks() * WARPS;
    // Rows follow in fours: this warp's k-th is number 4 (k / 4) of all warps' + k % 4.
    first = (block() * WARPS + warp) * 4;
    ring = shared_memory() + shared_size() - (WARPS - warp) * I.splits * int8_piece(I);
  }
  DEVICE_MEMBER u32 row(u32 k) const { return first + k / 4 * (4 * step) + k % 4; }
  DEVICE_MEMBER void ask(const Instruction& I, u32 k, char* to) const { ask_int8((const char*)w + (u64)row(k) * stride, to, I.code_stride, row(k) < rows); }
};

DEVICE void int8_one(const Instruction& I, const Gate& gate) {
  const u32 asked = shared().asked;
  one_ahead(I);
  {
    Int8Rows of;
    of.of(I);
    const u32 places = I.splits, piece = int8_piece(I);
    ROLLED for (u32 k = 0; k < places; k++) of.ask(I, k, of.ring + k * piece);
  }
  gate.pass();
  count_asked(asked, I.norm ? NORM_ASKED : 0);
  make_bytes(I, I.splits, asked, gate, [] {});
  Int8Rows of;
  of.of(I);
  const u32 lane = of.lane, places = I.splits, bytes = I.code_stride, piece = int8_piece(I), rows = of.rows;
  const char* const codes = codes_place(I);
  const float* const scales = (const float*)I.m[0].scales;
  float* const out = (float*)I.m[0].out;
  const float scale = shared().scale;
  u32 place = 0;
  float row_scale = 0.0f, mine = 0.0f;
  ROLLED for (u32 k = 0; of.row(k) < rows; k++) {
    const u32 row = of.row(k);
    if (k % 4 == 0) row_scale = lane < 4 && row + lane < rows ? stream_float(scales + row + lane) : 0.0f;
    copies_there_but(places - 1);
    char* const at = of.ring + place * piece;
    i32 a = 0, b = 0;
    UNROLL4 for (u32 c = lane * 16; c < bytes; c += LANES_BYTES) {
      const Words w = *(const Words*)(at + c), x = *(const Words*)(codes + c);
      a = dot4(w.x, x.x, a);
      b = dot4(w.y, x.y, b);
      a = dot4(w.z, x.z, a);
      b = dot4(w.w, x.w, b);
    }
    of.ask(I, k + places, at);
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

/** Of a panel's group: a word's codes of 4 columns are 4 bytes; all 64 scales of two bytes or four. */
DEVICE u32 panel_bytes(const Instruction& I) { return I.group * 16; }
/** What a place has of it: where stretches are copied whole panels, else the item's part. */
DEVICE u32 group_bytes(const Instruction& I) { return bulk_copies() ? panel_bytes(I) : panel_bytes(I) >> I.cut; }
/** Its scales, and what they have room for. */
DEVICE u32 scale_bytes(const Matrix& m) { return m.half ? 128 : 256; }
constexpr u32 GROUP_SCALES = 256;
/** Which part of its panel an item is. */
DEVICE u32 part_of_panel(const Instruction& I, u32 item) { return item & ((1 << I.cut) - 1); }
/** What a piece has room for of a matrix: codes, then scales. */
DEVICE u32 part_bytes(const Instruction& I) { return I.chunk * (group_bytes(I) + GROUP_SCALES); }
DEVICE u32 piece_bytes(const Instruction& I) { return part_bytes(I) << (I.ending == GATE); }

/** By ASKER, of panels whole, since they lie in a stretch; or by all threads, of lines of 64 bytes, 4 columns of a panel, the item's. */
DEVICE void ask_piece(const Instruction& I, const Piece& p, char* to, u32 place) {
  u64* const arrival = &shared().arrivals[PIECES_ARRIVE + place];
  const u32 cut = I.cut, here = p.groups(I), each = I.ending == GATE ? 2 : 1, part = part_bytes(I), line = 64 >> cut;
  u32 panel = p.item >> cut, all = 0;
  const Matrix* m = &I.m[each == 2 ? 0 : part_of(I, panel)];
  const u32 first = panel * I.groups + p.first;
  ROLLED for (u32 sub = 0; sub < each; sub++, m++, to += part) {
    const u32 scales = scale_bytes(*m), codes = here * group_bytes(I);
    const char* const w = (const char*)m->w + (u64)first * panel_bytes(I);
    const char* const s = (const char*)m->scales + (u64)first * scales;
    char* const behind = to + I.chunk * group_bytes(I);
    if (bulk_copies()) {
      copy_bulk(to, w, codes, arrival);
      copy_bulk(behind, s, here * scales, arrival);
      all += codes + here * scales;
      continue;
    }
    const char* const from = w + part_of_panel(I, p.item) * line;
    ROLLED for (u32 at = thread() * 16; at < codes; at += THREADS * 16) copy_ahead(to + at, from + (at >> (6 - cut)) * 64 + (at & (line - 1)));
    ROLLED for (u32 at = thread() * 16; at < here * scales; at += THREADS * 16) copy_ahead(behind + at, s + at);
  }
  if (bulk_copies()) expect(arrival, all);
}

/** Products of a group with the rows of an item, 64 or fewer. */
constexpr u32 PRODUCT_ROWS = 64;
/**
 * What a lane has to do with each group of an item: rows of an `mma` are a field of 16 words (cut 0), two fields of 8 (1), or four of 4 (2).
 * Columns of a plane are alike: each of a row's four lanes has other results, a field's; of whole panels two neighbours'.
 */
struct Lane {
  /** Bytes from a group's first to the lane's words, and from the codes' first to its column: hi where that is even, else lo. */
  u32 word, column;
  /** Its result's row of the panel, place among the item's, and field. */
  u32 row, place, field;
  DEVICE_MEMBER void of(const Instruction& I, u32 item) {
    const u32 lane = thread() & 31, g = lane / 4, piece = lane & 3, cut = I.cut, words = 16 >> cut;
    // Of a panel that is there whole the item's words.
    const u32 first = part_of_panel(I, item) * words, mine = cut == 0 ? 2 * g : g & (words - 1);
    word = piece * (bulk_copies() ? 64 : 4 * words) + 4 * (bulk_copies() ? first + mine : mine);
    column = (g & 1) * plane_stride(I) + piece * 8;
    field = cut == 2 ? g / 4 + 2 * (piece & 1) : piece;
    row = field * 16 + first + mine;
    place = field * words + mine;
  }
};

/** Products of a piece: [gate or up][group][row]. WIDE: groups are of 128 columns, whose operands are loaded before the first `mma`. */
template <u32 CUT, bool WIDE> DEVICE void piece_of_one(const Instruction& I, const Piece& p, const Matrix* m, const Lane& lane, const char* w, const char* codes, float* products) {
  constexpr u32 SETS = 4 >> CUT, N = WIDE ? 4 : 1;
  const u32 warp = thread() / 32, g = (thread() & 31) / 4, piece = thread() & 3, chunk = I.chunk, here = p.groups(I);
  const u32 size = WIDE ? 128 : I.group, rounds = WIDE ? 1 : size / 32, line = bulk_copies() ? 64 : 64 >> CUT;
  const u32 each = I.ending == GATE ? 2 : 1, bytes = chunk * (size / 4 * line), part = bytes + chunk * GROUP_SCALES, shift = 2 * lane.field;
  const u32 low = CUT == 2 ? mask_of(g / 4) : mask_of(0), high = CUT == 2 ? mask_of(g / 4 + 2) : mask_of(1);
  const char* const first = codes + (p.first + warp) * size + lane.column;
  const i32* const sums = (const i32*)(codes + 2 * plane_stride(I)) + (p.first + warp) * rounds;
  ROLLED for (u32 sub = 0; sub < each; sub++, m++, w += part, products += chunk * PRODUCT_ROWS) {
    const u32 half = m->half, scales = scale_bytes(*m);
    const char *a = w + warp * (size / 4 * line) + lane.word, *b = first, *scale = w + bytes + warp * scales + lane.row * (scales / 64);
    const i32* c = sums;
    float* to = products + warp * PRODUCT_ROWS + lane.place;
    ROLLED for (u32 k = warp; k < here; k += WARPS) {
      // Halves: of two neighbours in one word, and what is behind them.
      u32 raw = CUT == 0 || !half ? *(const u32*)scale : *(const unsigned short*)scale, raw2 = 0;
      if (CUT == 0) raw2 = ((const u32*)scale)[1];
      i32 sum[SETS][4], of_codes = 0;
      UNROLL for (u32 f = 0; f < SETS; f++) {
        UNROLL for (u32 e = 0; e < 4; e++) sum[f][e] = 0;
      }
      auto multiply = [&](const char* a, const char* b) {
        u64 x[N], y[N], z[N];
        UNROLL for (u32 i = 0; i < N; i++) {
          const char* const at = a + i * 8 * line;
          x[i] = CUT == 0 ? *(const u64*)at : *(const u32*)at;
          y[i] = CUT == 0 ? *(const u64*)(at + 4 * line) : *(const u32*)(at + 4 * line);
          z[i] = *(const u64*)(b + i * 32);
        }
        UNROLL for (u32 i = 0; i < N; i++) {
          const u32 b0 = (u32)z[i], b1 = (u32)(z[i] >> 32);
          if (CUT == 0) {
            UNROLL for (u32 f = 0; f < SETS; f++)
              mma_u8(sum[f], (u32)x[i] & mask_of(f), (u32)(x[i] >> 32) & mask_of(f), (u32)y[i] & mask_of(f), (u32)(y[i] >> 32) & mask_of(f), b0, b1);
          } else {
            mma_u8(sum[0], (u32)x[i] & low, (u32)x[i] & high, (u32)y[i] & low, (u32)y[i] & high, b0, b1);
            if (CUT == 1) mma_u8(sum[SETS - 1], (u32)x[i] & mask_of(2), (u32)x[i] & mask_of(3), (u32)y[i] & mask_of(2), (u32)y[i] & mask_of(3), b0, b1);
          }
        }
      };
      if (WIDE) {
        of_codes = *c;
        multiply(a, b);
      } else {
        ROLLED for (u32 n = 0; n < rounds; n++) {
          of_codes += c[n];
          multiply(a + n * 8 * line, b + n * 32);
        }
      }
      auto result = [&](i32 hi, i32 lo, u32 scale) {
        const i32 all = 256 * (hi >> shift) + (lo >> shift) - of_codes;
        const float of_half = half_float(scale & 0xffff);
        return (float)all * (half ? of_half : from_bits(scale));
      };
      if (CUT == 0) {
        i32 mine[4];
        UNROLL for (u32 e = 0; e < 4; e++) {
          const i32 even = piece & 2 ? sum[SETS / 2][e] : sum[0][e], odd = piece & 2 ? sum[SETS - 1][e] : sum[SETS / 4][e];
          mine[e] = piece & 1 ? odd : even;
        }
        *(Pair*)to = {result(mine[0], mine[1], raw), result(mine[2], mine[3], half ? raw >> 16 : raw2)};
      } else {
        i32 hi = piece & 1 ? sum[0][2] : sum[0][0], lo = piece & 1 ? sum[0][3] : sum[0][1];
        if (CUT == 1) {
          const i32 hi2 = piece & 1 ? sum[SETS - 1][2] : sum[SETS - 1][0], lo2 = piece & 1 ? sum[SETS - 1][3] : sum[SETS - 1][1];
          hi = piece & 2 ? hi2 : hi;
          lo = piece & 2 ? lo2 : lo;
        }
        // Of quarters two lanes have the same.
        *to = result(hi, lo, raw);
      }
      a += WARPS * (size / 4 * line);
      b += WARPS * size;
      c += WARPS * rounds;
      scale += WARPS * scales;
      to += WARPS * PRODUCT_ROWS;
    }
  }
}

/** Adds a row's products of a piece, group after group; of gate and up at once. */
template <bool BOTH> DEVICE void add_groups(float (&total)[2], const float* one, const float* two, u32 groups) {
  u32 k = 0;
  ROLLED for (; k + 16 <= groups; k += 16, one += 16 * PRODUCT_ROWS, two += 16 * PRODUCT_ROWS) {
    float a[16], b[16];
    UNROLL for (u32 i = 0; i < 16; i++) {
      a[i] = one[i * PRODUCT_ROWS];
      if (BOTH) b[i] = two[i * PRODUCT_ROWS];
    }
    UNROLL for (u32 i = 0; i < 16; i++) {
      total[0] = total[0] + a[i];
      if (BOTH) total[1] = total[1] + b[i];
    }
  }
  ROLLED for (; k < groups; k++, one += PRODUCT_ROWS, two += PRODUCT_ROWS) {
    total[0] = total[0] + *one;
    if (BOTH) total[1] = total[1] + *two;
  }
}

/** Of the first piece of this block's that part which is its own: blocks that share a panel bring it to L2 together. */
DEVICE void fetch_grouped(const Instruction& I) {
  const u32 cut = I.cut, each = I.ending == GATE ? 2 : 1, item = block();
  if (item >= I.items << cut) return;
  u32 panel = item >> cut;
  const Matrix* m = &I.m[each == 2 ? 0 : part_of(I, panel)];
  const u32 part = part_of_panel(I, item), codes = I.chunk * panel_bytes(I) >> cut, first = panel * I.groups;
  ROLLED for (u32 sub = 0; sub < each; sub++, m++) {
    const u32 scales = scale_bytes(*m);
    fetch_bulk((const char*)m->w + (u64)first * panel_bytes(I) + part * codes, codes);
    if (part == 0) fetch_bulk((const char*)m->scales + (u64)first * scales, I.chunk * scales);
  }
}

DEVICE void grouped_one(const Instruction& I, const Gate& gate) {
  Shared& s = shared();
  const u32 tid = thread(), places = I.splits, asked = s.asked, cut = I.cut, words = 16 >> cut, rows = 4 * words;
  const u32 items = I.items << cut, each = I.ending == GATE ? 2 : 1, bytes = piece_bytes(I);
  const bool adds = I.ending == ADD;
  char* const codes = codes_place(I);
  float* const products = (float*)after_codes<16>(I);  // those of a piece, and of the one before
  char* const ring = shared_memory() + shared_size() - places * bytes;
  const bool busy = block() < items, asks = !bulk_copies() || tid == ASKER;
  Piece p, ahead;
  p.begin();
  ahead.begin();
  u32 what = I.norm ? NORM_ASKED : 0;
  // Of the item that is worked on: its matrix, or the first of two; where this thread's result goes, field by field, null past the last row.
  const Matrix* m = &I.m[0];
  Lane lane;
  float* to = nullptr;
  auto begin_item = [&](u32 item) {
    u32 panel = item >> cut;
    m = &I.m[each == 2 ? 0 : part_of(I, panel)];
    lane.of(I, item);
    if (tid >= rows) return;
    const u32 row = panel * 64 + (tid >> (4 - cut)) * 16 + part_of_panel(I, item) * words + (tid & (words - 1));
    to = row < m->rows ? (float*)m->out + row : nullptr;
  };
  if (busy) {
    one_ahead(I);
    if (asks) {
      ROLLED for (u32 k = 0; k < places; k++) {
        if (ahead.item < items) {
          ask_piece(I, ahead, ring + k * bytes, k);
          what |= 1 << (PIECES_ARRIVE + k);
          ahead.next(I);
        }
        copies_asked();
      }
    }
    begin_item(block());
  }
  mark(18);
  gate.pass();
  mark(19);
  if (!busy) return;
  // Nobody else knows.
  if (bulk_copies() && asks) s.asked = asked ^ what;
  // What results are added to, asked for early.
  float old = adds && to ? load(to) : 0.0f;
  mark(0);
  // Of the groups of copies the norm's was the first.
  make_words(I, codes, places, asked, gate);
  u32 place = 0, half = 0, parity = asked >> PIECES_ARRIVE;
  float total[2] = {0.0f, 0.0f};
  ROLLED for (;;) {
    const char* const w = ring + place * bytes;
    float* const mine = products + half * (each * I.chunk * PRODUCT_ROWS);
    mark(7);
    if (I.group == 128) {
      if (cut == 0) piece_of_one<0, true>(I, p, m, lane, w, codes, mine);
      else if (cut == 1) piece_of_one<1, true>(I, p, m, lane, w, codes, mine);
      else piece_of_one<2, true>(I, p, m, lane, w, codes, mine);
    } else {
      if (cut == 0) piece_of_one<0, false>(I, p, m, lane, w, codes, mine);
      else if (cut == 1) piece_of_one<1, false>(I, p, m, lane, w, codes, mine);
      else piece_of_one<2, false>(I, p, m, lane, w, codes, mine);
    }
    const u32 here = p.groups(I);
    p.next(I);
    const bool more = p.item < items;
    // The next piece's, of this thread; behind the barrier of all.
    if (more && !bulk_copies() && places > 1) copies_there_but(places - 2);
    mark(8);
    sync();
    mark(9);
    if (tid < rows) {
      const float* const one = mine + tid;
      const float scale = s.scale;
      if (each == 2) add_groups<true>(total, one, one + I.chunk * PRODUCT_ROWS, here);
      else add_groups<false>(total, one, one, here);
      mark(11);
      // Unless of the item more groups follow.
      if (p.first == 0) {
        if (to) {
          float y = total[0] * scale;
          if (each == 2) {
            const float up = total[1] * scale;
            // The commonest here.
            y = I.gate == SILU ? divide(y, 1.0f + exp_f32(-y)) * up : joined(I, y, up);
          }
          *to = adds ? old + y : y;
        }
        total[0] = total[1] = 0.0f;
      }
    }
    if (!more) break;
    if (asks && ahead.item < items) {
      ask_piece(I, ahead, ring + place * bytes, place);
      ahead.next(I);
      if (bulk_copies()) s.asked ^= 1 << (PIECES_ARRIVE + place);
    }
    if (!bulk_copies()) {
      copies_asked();
      if (places == 1) {
        copies_there<0>();
        sync();
      }
    }
    parity ^= 1 << place;
    place = place + 1 == places ? 0 : place + 1;
    half ^= 1;
    if (p.first == 0) {
      begin_item(p.item);
      if (adds && to) old = load(to);
    }
    if (bulk_copies()) await_bulk(&s.arrivals[PIECES_ARRIVE + place], parity >> place & 1);
  }
}
