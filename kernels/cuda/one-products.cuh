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
  const u32 rows = m.rows, stride = m.stride, step = blocks() * WARPS;
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
  char* const codes = codes_place(I);
  make_one<8>(I, codes, places);
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

// ---- grouped: a block takes panels of 64 rows, a warp of it every 16th group; a piece is a group's codes and scales.

/** Columns of a group are whole 32s: 512 bytes each; then 64 scales of two bytes or four. */
DEVICE u32 group_bytes(const Instruction& I) { return I.group / 32 * 512; }
DEVICE u32 group_piece(const Instruction& I) { return group_bytes(I) + 256; }
DEVICE char* group_ring(const Instruction& I, u32 warp) {
  return shared_memory() + shared_size() - (WARPS - warp) * I.splits * group_piece(I);
}

/** A warp's pieces one after the other: groups, matrices of an item, items. */
struct GroupWalk {
  u32 warp, item, sub, group;
  DEVICE_MEMBER void begin(u32 of) {
    warp = group = of;
    item = block();
    sub = 0;
  }
  DEVICE_MEMBER void next(u32 each, u32 groups) {
    group += WARPS;
    if (group < groups) return;
    group = warp;
    if (++sub < each) return;
    sub = 0;
    item += blocks();
  }
  DEVICE_MEMBER void ask(const Instruction& I, u32 items, u32 each, u32 groups, char* to) const {
    if (item < items && group < groups) {
      u32 panel = item;
      const Matrix& m = I.m[each == 2 ? sub : part_of(I, panel)];
      const u32 bytes = group_bytes(I), scales = m.half ? 128 : 256;
      const char* w = (const char*)m.w + ((u64)panel * groups + group) * bytes;
      const char* s = (const char*)m.scales + ((u64)panel * groups + group) * scales;
      ROLLED for (u32 i = (thread() & 31) * 16; i < bytes; i += 512) copy_ahead(to + i, w + i);
      if ((thread() & 31) * 16 < scales) copy_ahead(to + bytes + (thread() & 31) * 16, s + (thread() & 31) * 16);
    }
    copies_asked();
  }
};

DEVICE void grouped_one(const Instruction& I, const Gate& gate) {
  const Shared& s = shared();
  const u32 tid = thread(), lane = tid & 31, warp = tid / 32, g = lane / 4, piece = lane & 3, places = I.splits;
  const u32 items = items_of(I), each = I.ending == GATE ? 2 : 1, groups = I.width / I.group, bytes = group_piece(I);
  const u32 steps = I.group / 32, code_stride = I.code_stride;
  char* const codes = codes_place(I);
  float* const products = (float*)after_codes<16>(I);  // [of two][group of sixteen][row]
  char* const ring = group_ring(I, warp);
  one_ahead(I);
  GroupWalk from;
  // The first warp asks for the last one's, too.
  if (tid < SPEAKER) {
    ROLLED for (u32 of = warp; of < WARPS; of += WARPS - 1) {
      char* to = group_ring(I, of);
      from.begin(of);
      ROLLED for (u32 k = 0; k < places; k++, to += bytes) {
        from.ask(I, items, each, groups, to);
        from.next(each, groups);
      }
    }
  }
  mark(18);
  gate.pass();
  mark(19);
  if (block() >= items) return;
  // What the first item's results are added to, asked for early.
  float old = 0.0f;
  if (I.ending == ADD && tid < 64) {
    u32 panel = block();
    const Matrix& m = I.m[part_of(I, panel)];
    if (panel * 64 + tid < m.rows) old = load((const float*)m.out + panel * 64 + tid);
  }
  mark(0);
  // Of the groups of copies the norm's was the first.
  make_one<16>(I, codes, warp == 0 ? 2 * places : places);
  from.begin(warp);
  ROLLED for (u32 k = 0; k < places; k++) from.next(each, groups);
  u32 place = 0, parity = 0;
  ROLLED for (u32 item = block(); item < items; item += blocks()) {
    float total[2] = {0.0f, 0.0f};
    u32 panel = item;
    const u32 part = each == 2 ? 0 : part_of(I, panel);
    ROLLED for (u32 sub = 0; sub < each; sub++) {
      const Matrix& m = I.m[each == 2 ? sub : part];
      ROLLED for (u32 first = 0; first < groups; first += WARPS) {
        float* const product = products + parity * (WARPS * 64);
        parity ^= 1;
        const u32 group = first + warp;
        if (group < groups) {
          mark(10);
          copies_there_but(places - 1);
          sync_warp();
          mark(7);
          const char* const w = ring + place * bytes + piece * 64 + g * 8;
          const char* const b = codes + group * I.group + piece * 4;
          i32 hi[4][4], lo[4][4];
          UNROLL for (u32 f = 0; f < 4; f++) {
            UNROLL for (u32 e = 0; e < 4; e++) hi[f][e] = lo[f][e] = 0;
          }
          ROLLED for (u32 k = 0; k < steps; k++) {
            const u64 a = *(const u64*)(w + k * 512), c = *(const u64*)(w + k * 512 + 256);
            const u32 h0 = *(const u32*)(b + k * 32), h1 = *(const u32*)(b + k * 32 + 16);
            const u32 l0 = *(const u32*)(b + code_stride + k * 32), l1 = *(const u32*)(b + code_stride + k * 32 + 16);
            UNROLL for (u32 f = 0; f < 4; f++) {
              const u32 a0 = (u32)a & mask_of(f), a1 = (u32)(a >> 32) & mask_of(f), a2 = (u32)c & mask_of(f), a3 = (u32)(c >> 32) & mask_of(f);
              mma_u8(hi[f], a0, a1, a2, a3, h0, h1);
              mma_u8(lo[f], a0, a1, a2, a3, l0, l1);
            }
          }
          if (piece == 0) {
            i32 of_codes = 0;
            ROLLED for (u32 k = 0; k < steps; k++) of_codes += ((const i32*)(codes + 2 * code_stride))[group * steps + k];
            const char* const scales = ring + place * bytes + steps * 512;
            UNROLL for (u32 f = 0; f < 4; f++) {
              UNROLL for (u32 e = 0; e < 2; e++) {
                const u32 row = f * 16 + 2 * g + e;
                const i32 sum = 256 * (hi[f][2 * e] >> (2 * f)) + (lo[f][2 * e] >> (2 * f)) - of_codes;
                product[warp * 64 + row] = (float)sum * group_scale(scales, m.half, row);
              }
            }
          }
          sync_warp();
          from.ask(I, items, each, groups, ring + place * bytes);
          from.next(each, groups);
          place = place + 1 == places ? 0 : place + 1;
        }
        mark(8);
        sync();
        mark(9);
        if (tid < 64) {
          const u32 here = groups - first < WARPS ? groups - first : WARPS;
          float sum = total[sub];
          UNROLL4 for (u32 k = 0; k < here; k++) sum = sum + product[k * 64 + tid];
          total[sub] = sum;
        }
      }
    }
    const Matrix& m = I.m[part];
    const u32 row = panel * 64 + tid;
    if (tid < 64 && row < m.rows) {
      float y = total[0] * s.scale;
      if (I.ending == GATE) y = joined(I, y, total[1] * s.scale);
      if (I.ending == ADD) y = (item == block() ? old : load((const float*)m.out + row)) + y;
      ((float*)m.out)[row] = y;
    }
  }
}
