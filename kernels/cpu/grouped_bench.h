// kernel-selftest --grouped: what the group-scaled product sustains, beside the int8 ternary product and a plain read of
// the same bytes. One token from cache and from memory, then blocks of tokens; with two threads on the wall clock.
#pragma once

#include <stdio.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "../include/engine.h"
#include "../include/grouped_repack.h"
#include "../include/kernels.h"

namespace bitnet {

struct GroupedBench {
  static constexpr uint64_t kBytes = (uint64_t)256 << 20;
  uint8_t* weights = (uint8_t*)host_alloc(kBytes);
  uint8_t* scales = (uint8_t*)host_alloc(kBytes / 8);
  std::vector<float> out = std::vector<float>((size_t)1 << 22), a = std::vector<float>(512, 0.25f);

  GroupedBench() {
    if (!weights || !scales) abort();
    uint32_t s = 1;
    const auto next = [&] { return (s = s * 1664525 + 1013904223) >> 8; };
    for (uint64_t i = 0; i < kBytes; i += 1) {
      const uint32_t v = next();
      weights[i] = (uint8_t)((v % 3) | (v / 3 % 3) << 2 | (v / 9 % 3) << 4 | (v / 27 % 3) << 6);
    }
    for (uint64_t i = 0; i < kBytes / 16; i += 1) ((uint16_t*)scales)[i] = (uint16_t)(0x2c00 | (next() & 0x3ff));
  }
  ~GroupedBench() {
    host_free(weights, kBytes);
    host_free(scales, kBytes / 8);
  }
  GroupedBench(const GroupedBench&) = delete;

  struct Thread {
    uint8_t *scratch, *planes;
    int64_t scratch_bytes, plane_bytes;
    Thread(const Kernels& k, int64_t C, int64_t G, int64_t T)
        : scratch_bytes(std::max<int64_t>({k.grouped_scratch(C, G), k.ternary_scratch(C), 64})),
          plane_bytes(std::max(planes_stride(C, G), code_stride(C)) * T) {
      scratch = (uint8_t*)host_alloc((uint64_t)scratch_bytes);
      planes = (uint8_t*)host_alloc((uint64_t)plane_bytes);
      if (!scratch || !planes) abort();
      std::vector<float> x((size_t)C);
      uint32_t s = 7;
      for (auto& v : x) v = (float)((int32_t)(s = s * 1664525 + 1013904223) >> 12);
      float scale = 0;
      for (int64_t t = 0; t < T; t += 1) k.quantize16(x.data(), C, G, planes + t * planes_stride(C, G), &scale);
    }
    ~Thread() {
      host_free(scratch, (uint64_t)scratch_bytes);
      host_free(planes, (uint64_t)plane_bytes);
    }
    Thread(const Thread&) = delete;
  };

  /** R rows with T tokens; returns multiplications of a weight with an activation. */
  double grouped(const Kernels& k, const Thread& own, int64_t first_row, int64_t R, int64_t C, int64_t G, int64_t T, int64_t ahead) {
    const int64_t p = first_row / 64;
    // Rows of the output overlap in long matrices: only their writing is timed.
    const GroupedArgs args{weights + p * panel_bytes(C), scales + p * (C / G) * 128, true, C, R, G, 0, R / 64,
                           own.planes, a.data(), T, out.data(), own.scratch, ahead};
    k.grouped(args);
    return (double)(R * C * T);
  }
  double ternary(const Kernels& k, const Thread& own, int64_t R, int64_t C, int64_t T, int64_t ahead) {
    for (int64_t t = 0; t < T; t += token_block_of(k, C)) {
      const int64_t n = std::min(T - t, token_block_of(k, C));
      const TernaryArgs args{weights, weights, R / 4, C, R, R / 4, 0, R / 4, (const int8_t*)own.planes + t * code_stride(C),
                             a.data(), n, out.data(), own.scratch, ahead};
      k.ternary(args);
    }
    return (double)(R * C * T);
  }
};

/** Panels made of each kind of source, in bytes of panels a second. */
template <class Best>
void bench_repack(GroupedBench& bench, Best best) {
  const auto wall = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
  constexpr uint64_t kPanels = (uint64_t)64 << 20;
  const std::pair<const char*, GroupedSource> sources[] = {
      {"Q2_0 of 64", GroupedSource::q2_64}, {"Q2_0 of 128", GroupedSource::q2_128}, {"PTQ1_0", GroupedSource::ptq1},
      {"Q1_0", GroupedSource::q1},          {"TQ2_0", GroupedSource::tq2},          {"TQ1_0", GroupedSource::tq1},
      {"packed", GroupedSource::packed},    {"bytes", GroupedSource::codes}};
  // The source in the first part of the weights, the panels behind it; f16 scales of any bits, which is reported.
  for (const auto& [name, source] : sources) {
    const int64_t C = 2048, bytes = grouped_source_row_bytes((int32_t)source, C);
    const uint64_t most = GroupedBench::kBytes - kPanels;
    const int64_t rows = (int64_t)std::min(kPanels / (uint64_t)C * 4, most / (uint64_t)bytes) / 128 * 128;
    const auto part = [&](int64_t from, int64_t to) {
      grouped_repack((int32_t)source, bench.weights, rows, C, from, to, bench.weights + most, (uint16_t*)bench.scales, nullptr);
    };
    const double alone = best(5, [&] { part(0, rows); });
    double both = 1e9;
    for (int r = 0; r < 5; r += 1) {
      const double start = wall();
      std::thread other([&] { part(rows / 2, rows); });
      part(0, rows / 2);
      other.join();
      both = std::min(both, wall() - start);
    }
    printf("repack of %-11s %5.2f GB/s of panels; 2 threads %5.2f (wall)\n", name, (double)(rows * C / 4) / alone / 1e9,
           (double)(rows * C / 4) / both / 1e9);
  }
}

/** `best` gives the least CPU seconds of n runs. */
template <class Best>
void bench_grouped(const Kernels* const* tables, int n, Best best) {
  GroupedBench bench;
  const auto wall = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
  for (int i = 0; i < n; i += 1) {
    const Kernels& k = *tables[i];
    if (!strcmp(k.isa, "scalar")) continue;
    const int64_t C = 2048, rows = (int64_t)(GroupedBench::kBytes / (uint64_t)C * 4), hot = 1024;
    double macs = 0;
    const double read = std::min(best(5, [&] { k.read_bytes(bench.weights, (int64_t)GroupedBench::kBytes, 0); }),
                                 best(5, [&] { k.read_bytes(bench.weights, (int64_t)GroupedBench::kBytes, 4096); }));
    const double rate = (double)GroupedBench::kBytes / read;
    int64_t peak = 0;
    const double multiply = best(5, [&] { peak = k.peak_macs(1'000'000); });
    printf("%-9s read %5.1f GB/s = %.0f G codes/s; int8 peak %.0f GMAC/s, so %.0f with two planes\n", k.isa, rate / 1e9,
           rate * 4 / 1e9, (double)peak / multiply / 1e9, (double)peak / multiply / 2e9);
    for (int64_t G : {128, 64}) {
      GroupedBench::Thread own(k, C, G, 256);
      const double cached = best(9, [&] {
        macs = 0;
        for (int r = 0; r < 16; r += 1) macs += bench.grouped(k, own, 0, hot, C, G, 1, 0);
      });
      printf("          group %3ld, 1 token, cache:           %6.1f GMAC/s\n", (long)G, macs / cached / 1e9);
      for (int64_t ahead : {0, 512, 1024, 2048, 4096, 8192}) {
        const double t = best(3, [&] { macs = bench.grouped(k, own, 0, rows, C, G, 1, ahead); });
        const double bytes = macs / 4 + macs / (double)G * 2;
        printf("          group %3ld, 1 token, memory, %4ld ahead: %6.1f GMAC/s, %5.1f GB/s = %3.0f %% of read\n", (long)G,
               (long)ahead, macs / t / 1e9, bytes / t / 1e9, 100 * bytes / t / rate);
      }
      for (int64_t T : {2, 3, 4, 8, 16, 32, 64, 256}) {
        const double t = best(5, [&] { macs = bench.grouped(k, own, 0, T > 16 ? hot : 4 * hot, C, G, T, 2048); });
        printf("          group %3ld, %3ld tokens:               %6.1f GMAC/s\n", (long)G, (long)T, macs / t / 1e9);
      }
    }
    {
      GroupedBench::Thread own(k, C, 128, 256);
      const double cached = best(9, [&] {
        macs = 0;
        for (int r = 0; r < 16; r += 1) macs += bench.ternary(k, own, hot, C, 1, 0);
      });
      const double memory = best(3, [&] { bench.ternary(k, own, rows, C, 1, 2048); });
      const double many = best(5, [&] { bench.ternary(k, own, hot, C, 256, 2048); });
      printf("          int8 ternary: 1 token %.1f cached, %.1f memory; 256 tokens %.1f GMAC/s\n", macs / cached / 1e9,
             (double)(rows * C) / memory / 1e9, (double)(hot * C * 256) / many / 1e9);
    }
    for (int64_t T : {1, 64}) {
      const int64_t each = (T == 1 ? rows : 4 * hot) / 2;
      double least = 1e9;
      for (int r = 0; r < 5; r += 1) {
        GroupedBench::Thread own[2] = {{k, C, 128, T}, {k, C, 128, T}};
        const double start = wall();
        std::thread other([&] { bench.grouped(k, own[1], each, each, C, 128, T, 2048); });
        bench.grouped(k, own[0], 0, each, C, 128, T, 2048);
        other.join();
        least = std::min(least, wall() - start);
      }
      printf("          group 128, %2ld tokens, 2 threads:      %6.1f GMAC/s (wall)\n", (long)T, (double)(2 * each * C * T) / least / 1e9);
    }
    fflush(stdout);
  }
  bench_repack(bench, best);
}

}  // namespace bitnet
