// Products of one row with int8 and with group-scaled matrices. Weights come through a ring in shared memory, one for each
// warp, whose first pieces are asked for before the grid's barrier; `splits` of the instruction says how many a ring has.
#pragma once

#include "products.cuh"

// ---- int8: a warp takes tiles of 16 rows, 128 columns a piece. A lane's 64 bytes of it are asked for and read by itself.

constexpr u32 INT8_PIECE = 2048;

/** A warp's pieces one after the other. */
struct Int8Walk {
  const char *one, *two;
  u32 tile, left;
  DEVICE_MEMBER void place(const Matrix& m, u32 chunks) {
    const u32 row = tile * 16 + (thread() & 31) / 4, last = m.rows - 1, column = (thread() & 3) * 32;
    one = (const char*)m.w + (u64)(row < last ? row : last) * m.stride + column;
    two = (const char*)m.w + (u64)(row + 8 < last ? row + 8 : last) * m.stride + column;
    left = chunks;
  }
  DEVICE_MEMBER void begin(const Matrix& m, u32 chunks) {
    tile = block() * WARPS + thread() / 32;
    place(m, chunks);
  }
  DEVICE_MEMBER void next(const Matrix& m, u32 chunks) {
    one += 128;
    two += 128;
    if (--left > 0) return;
    tile += blocks() * WARPS;
    place(m, chunks);
  }
};

/** This lane's 16 bytes of the first piece of its warp's ring; the other three are 32 lanes apart each. */
DEVICE Words* int8_ring(const Instruction& I) {
  return (Words*)(shared_memory() + shared_size() - (WARPS - thread() / 32) * I.splits * INT8_PIECE) + (thread() & 31);
}
DEVICE void ask_int8(const Int8Walk& from, const Matrix& m, Words* to) {
  if (from.tile < m.tiles) {
    copy_ahead(to, from.one);
    copy_ahead(to + 32, from.one + 16);
    copy_ahead(to + 64, from.two);
    copy_ahead(to + 96, from.two + 16);
  }
  copies_asked();
}

APART void int8_ahead(const Instruction& I) {
  one_ahead(I);
  const Matrix& m = I.m[0];
  const u32 chunks = I.code_stride / 128;
  Words* ring = int8_ring(I);
  Int8Walk from;
  from.begin(m, chunks);
  ROLLED for (u32 k = 0; k < I.splits; k++) {
    ask_int8(from, m, ring + k * (INT8_PIECE / 16));
    from.next(m, chunks);
  }
}

APART void int8_one(const Instruction& I) {
  const u32 lane = thread() & 31, g = lane / 4, piece = lane & 3, places = I.splits, chunks = I.code_stride / 128;
  const Matrix& m = I.m[0];
  char* const codes = codes_place(I);
  make_one<8>(I, codes, places);
  const float scale = shared().scale;
  Words* const ring = int8_ring(I);
  Int8Walk from;
  from.begin(m, chunks);
  ROLLED for (u32 k = 0; k < places; k++) from.next(m, chunks);
  u32 place = 0;
  ROLLED for (u32 tile = block() * WARPS + thread() / 32; tile < m.tiles; tile += blocks() * WARPS) {
    const u32 row = tile * 16 + g + (lane & 1) * 8;
    // Two lanes of four have results: rows g and g + 8.
    const bool mine = piece < 2 && row < m.rows;
    const float row_scale = mine ? stream_float((const float*)m.scales + row) : 0.0f;
    i32 a[4] = {0, 0, 0, 0}, b[4] = {0, 0, 0, 0};
    ROLLED for (u32 c = 0; c < chunks; c++) {
      copies_there_but(places - 1);
      Words* const at = ring + place * (INT8_PIECE / 16);
      const Words x = *(const Words*)(codes + c * 128 + piece * 32), y = *(const Words*)(codes + c * 128 + piece * 32 + 16);
      const Words w0 = at[0], w1 = at[32], w2 = at[64], w3 = at[96];
      mma_s8(a, w0.x, w2.x, w0.y, w2.y, x.x, x.y);
      mma_s8(b, w0.z, w2.z, w0.w, w2.w, x.z, x.w);
      mma_s8(a, w1.x, w3.x, w1.y, w3.y, y.x, y.y);
      mma_s8(b, w1.z, w3.z, w1.w, w3.w, y.z, y.w);
      ask_int8(from, m, at);
      from.next(m, chunks);
      place = place + 1 == places ? 0 : place + 1;
    }
    // The sums are in the lanes of piece 0; row g + 8 goes to the lane beside.
    const i32 above = shuffle_xor(a[2] + b[2], 1), sum = piece == 0 ? a[0] + b[0] : above;
    if (mine) ((float*)m.out)[row] = (float)sum * divide(row_scale, scale);
  }
}

// ---- grouped: a block takes panels of 64 rows, a warp of it every 16th group; a piece is a group's codes and scales.

/** Columns of a group are whole 32s: 512 bytes each; then 64 scales of two bytes or four. */
DEVICE u32 group_bytes(const Instruction& I) { return I.group / 32 * 512; }
DEVICE u32 group_piece(const Instruction& I) { return group_bytes(I) + 256; }
DEVICE char* group_ring(const Instruction& I) {
  return shared_memory() + shared_size() - (WARPS - thread() / 32) * I.splits * group_piece(I);
}

/** A warp's pieces one after the other: groups, matrices of an item, items. */
struct GroupWalk {
  u32 item, sub, group;
  DEVICE_MEMBER void begin() {
    item = block();
    sub = 0;
    group = thread() / 32;
  }
  DEVICE_MEMBER void next(u32 each, u32 groups) {
    group += WARPS;
    if (group < groups) return;
    group = thread() / 32;
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

APART void grouped_ahead(const Instruction& I) {
  one_ahead(I);
  const u32 items = items_of(I), each = I.ending == GATE ? 2 : 1, groups = I.width / I.group, bytes = group_piece(I);
  char* ring = group_ring(I);
  GroupWalk from;
  from.begin();
  ROLLED for (u32 k = 0; k < I.splits; k++) {
    from.ask(I, items, each, groups, ring + k * bytes);
    from.next(each, groups);
  }
}

APART void grouped_one(const Instruction& I) {
  const Shared& s = shared();
  const u32 tid = thread(), lane = tid & 31, warp = tid / 32, g = lane / 4, piece = lane & 3, places = I.splits;
  const u32 items = items_of(I), each = I.ending == GATE ? 2 : 1, groups = I.width / I.group, bytes = group_piece(I);
  const u32 steps = I.group / 32, code_stride = I.code_stride;
  if (block() >= items) return;
  char* const codes = codes_place(I);
  float* const products = (float*)after_codes(I);  // [of two][group of sixteen][row]
  // What the first item's results are added to, asked for early.
  float old = 0.0f;
  if (I.ending == ADD && tid < 64) {
    u32 panel = block();
    const Matrix& m = I.m[part_of(I, panel)];
    if (panel * 64 + tid < m.rows) old = load((const float*)m.out + panel * 64 + tid);
  }
  make_one<16>(I, codes, places);
  char* const ring = group_ring(I);
  GroupWalk from;
  from.begin();
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
          copies_there_but(places - 1);
          sync_warp();
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
            const i32 of_codes = ((const i32*)(codes + 2 * code_stride))[group];
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
        sync();
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
      if (I.ending == GATE) y = activated(I.gate, I.limit, y, total[1] * s.scale);
      if (I.ending == ADD) y = (item == block() ? old : load((const float*)m.out + row)) + y;
      ((float*)m.out)[row] = y;
    }
  }
}
