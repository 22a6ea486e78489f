// The tile instructions in plain C++, for machines without them: EMULATE_AMX=1 scripts/kernel-selftest compiles isa_amx.cc
// with this in front (-include), so that its indices and tile shapes are run. Only what isa_amx.cc uses; shapes that the
// hardware would fault on end the program. Source: the instructions' pseudocode in Intel's manual, volume 2.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace {

struct EmulatedTiles {
  bool on = false;
  int rows[8] = {}, bytes[8] = {};
  uint8_t data[8][16][64] = {};

  void need(bool fine) const {
    if (!fine) abort();
  }
  void configure(const void* at) {
    const uint8_t* config = (const uint8_t*)at;
    need(config[0] == 1 && config[1] == 0);
    for (int i = 0; i < 8; i += 1) {
      uint16_t width;
      memcpy(&width, config + 16 + 2 * i, 2);
      rows[i] = config[48 + i];
      bytes[i] = width;
      need(rows[i] <= 16 && width <= 64);
    }
    memset(data, 0, sizeof data);
    on = true;
  }
  void zero(int t) {
    need(on && rows[t] > 0);
    memset(data[t], 0, sizeof data[t]);
  }
  void load(int t, const void* at, int64_t stride) {
    zero(t);
    for (int r = 0; r < rows[t]; r += 1) memcpy(data[t][r], (const uint8_t*)at + r * stride, (size_t)bytes[t]);
  }
  void store(int t, void* at, int64_t stride) const {
    need(on && rows[t] > 0);
    for (int r = 0; r < rows[t]; r += 1) memcpy((uint8_t*)at + r * stride, data[t][r], (size_t)bytes[t]);
  }
  /** to += a . b, bytes of a signed and of b unsigned. */
  void multiply(int to, int a, int b) {
    need(on && to != a && to != b && a != b);
    need(rows[to] == rows[a] && bytes[to] == bytes[b] && bytes[a] == 4 * rows[b] && bytes[to] % 4 == 0);
    for (int m = 0; m < rows[to]; m += 1)
      for (int n = 0; n < bytes[to] / 4; n += 1) {
        int32_t sum;
        memcpy(&sum, data[to][m] + 4 * n, 4);
        for (int k = 0; k < bytes[a]; k += 1) sum += (int8_t)data[a][m][k] * data[b][k / 4][4 * n + k % 4];
        memcpy(data[to][m] + 4 * n, &sum, 4);
      }
  }
};

thread_local EmulatedTiles emulated_tiles;

}  // namespace

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud
#define _tile_loadconfig(at) emulated_tiles.configure(at)
#define _tile_release() (emulated_tiles.on = false)
#define _tile_zero(t) emulated_tiles.zero(t)
#define _tile_loadd(t, at, stride) emulated_tiles.load(t, at, stride)
#define _tile_stored(t, at, stride) emulated_tiles.store(t, at, stride)
#define _tile_dpbsud(to, a, b) emulated_tiles.multiply(to, a, b)
