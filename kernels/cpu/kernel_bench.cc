// scripts/kernel-selftest: every instruction set this CPU has against "scalar", then how near each comes to the
// machine's limits. Speeds are per CPU second of the thread, so that a busy machine tells the same.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "../include/engine.h"
#include "../include/isa.h"
#include "../include/selftest.h"
#include "grouped_bench.h"
#include "grouped_check.h"

using namespace bitnet;

namespace {

double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
double wall_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/** Best of n. */
template <class F>
double best(int n, F f) {
  double least = 1e9;
  for (int i = 0; i < n; i += 1) {
    const double start = cpu_seconds();
    f();
    least = std::min(least, cpu_seconds() - start);
  }
  return least;
}

struct Bench {
  std::vector<uint8_t> random;
  uint8_t* weights;
  uint64_t bytes;
  int8_t* codes;  // with out: aligned and on huge pages, as the engine's buffers are
  float* out;
  std::vector<float> factor, scale;
  std::vector<uint16_t> halves;  // bf16 of ordinary size: the ternary bytes would make subnormals, each a slow assist

  explicit Bench(uint64_t n) : bytes(n) {
    weights = (uint8_t*)host_alloc(n);
    if (!weights) abort();
    uint32_t s = 1;
    for (uint64_t i = 0; i < n; i += 1) {
      s = s * 1664525 + 1013904223;
      const uint32_t v = s >> 8;
      weights[i] = (uint8_t)((v % 3) | (v / 3 % 3) << 2 | (v / 9 % 3) << 4 | (v / 27 % 3) << 6);
    }
    constexpr uint64_t kCodes = 1 << 22, kOut = 1 << 23;
    codes = (int8_t*)host_alloc(kCodes);
    out = (float*)host_alloc(kOut * 4);
    if (!codes || !out) abort();
    for (uint64_t i = 0; i < kCodes; i += 1) codes[i] = (int8_t)((int)(s = s * 1664525 + 1013904223, s >> 24) % 127);
    factor.assign(4096, 0.5f);
    scale.assign(4096, 2.0f);
    halves.resize(n / 8);
    for (auto& h : halves) h = (uint16_t)(0x3c00 | ((s = s * 1664525 + 1013904223) >> 16 & 0x83ff));
    for (uint64_t i = 0; i < kOut; i += 1) out[i] = 0;  // there before it is timed
  }

  /** Matrices of (R, C) one behind the other over all of the memory, T tokens: seconds and bytes. */
  double ternary(const Kernels& k, int64_t R, int64_t C, int64_t T, int64_t prefetch, uint64_t limit, uint8_t* scratch) {
    const int64_t Q = R / 4;
    const uint64_t each = (uint64_t)(Q * C);
    double start = cpu_seconds();
    for (uint64_t at = 0; at + each + 64 <= limit; at += each)
      for (int64_t t = 0; t < T; t += token_block_of(k, C)) {
        const int64_t n = std::min(T - t, token_block_of(k, C));
        TernaryArgs a{weights + at, nullptr, Q, C, R, Q, 0, Q, codes + t * code_stride(C), factor.data(), n,
                      out + t * R, scratch, prefetch};
        k.ternary(a);
      }
    return cpu_seconds() - start;
  }
};

}  // namespace

int main(int argc, char** argv) {
  bool quick = false, only_grouped = false;
  const char* golden = nullptr;
  std::vector<const char*> names;
  for (int i = 1; i < argc; i += 1) {
    if (!strcmp(argv[i], "--quick")) quick = true;
    else if (!strcmp(argv[i], "--grouped")) only_grouped = true;
    else if (!strcmp(argv[i], "--golden") && i + 1 < argc) golden = argv[i += 1];
    else names.push_back(argv[i]);
  }
  const Kernels* tables[kMaxIsas];
  int n = usable_isas(tables);
  printf("built:");
  for (int i = 0; built_isas()[i]; i += 1) printf(" %s", built_isas()[i]);
  printf("; usable here:");
  for (int i = 0; i < n; i += 1) printf(" %s", tables[i]->isa);
  printf("; %u CPUs\n", std::thread::hardware_concurrency());
  if (!names.empty()) {
    const auto named = [&](const Kernels* k) {
      return std::any_of(names.begin(), names.end(), [&](const char* name) { return !strcmp(name, k->isa); });
    };
    n = (int)(std::stable_partition(tables, tables + n, named) - tables);
    if (n == 0) {
      printf("none of the named instruction sets is usable here\n");
      return 1;
    }
  }
  for (int i = 0; i < n; i += 1) {
    for (uint32_t seed = 1; seed <= (quick || only_grouped ? 1u : 8u); seed += 1) {
      if (const char* text = selftest(*tables[i], seed)) {
        printf("FAILED %s\n", text);
        return 1;
      }
    }
    printf("%-9s same bits as scalar\n", tables[i]->isa);
  }
  GroupedCheck check;
  if (!check.all_repacks() || (golden && !check.golden(golden, tables, n))) {
    printf("FAILED %s\n", check.text.c_str());
    return 1;
  }
  printf("repacking gives the codes of every source%s\n", golden ? ", products the golden numbers" : "");
  if (quick) return 0;
  bench_grouped(tables, n, [](int runs, auto f) { return best(runs, f); });
  if (only_grouped) return 0;

  Bench bench((uint64_t)384 << 20);
  uint8_t* scratch = (uint8_t*)host_alloc(1 << 21);
  const int64_t shapes[][2] = {{6912, 2560}, {2560, 6912}};
  for (int i = 0; i < n; i += 1) {
    const Kernels& k = *tables[i];
    const bool slow = !strcmp(k.isa, "scalar");
    const uint64_t limit = slow ? bench.bytes / 16 : bench.bytes;
    // Some machines read fastest when left alone, others when asked ahead.
    const double read = std::min(best(3, [&] { k.read_bytes(bench.weights, (int64_t)bench.bytes, 0); }),
                                 best(3, [&] { k.read_bytes(bench.weights, (int64_t)bench.bytes, 4096); }));
    int64_t macs = 0;
    const double multiply = best(3, [&] { macs = k.peak_macs(1'000'000); });
    const double bandwidth = (double)bench.bytes / read, peak = (double)macs / multiply;
    printf("%-9s read %5.1f GB/s, int8 peak %6.0f GMAC/s\n", k.isa, bandwidth / 1e9, peak / 1e9);
    for (const auto& s : shapes) {
      const uint64_t each = (uint64_t)(s[0] * s[1] / 4);
      const double used = (double)(limit / each * each);
      for (int64_t prefetch : {0, 256, 1024, 2048, 4096, 8192}) {
        if (slow && prefetch) continue;
        const double t = best(3, [&] { bench.ternary(k, s[0], s[1], 1, prefetch, limit, scratch); });
        printf("          vector %5ldx%-5ld prefetch %5ld: %5.1f GB/s = %3.0f %% of read bandwidth\n", (long)s[0], (long)s[1],
               (long)prefetch, used / t / 1e9, 100 * used / t / bandwidth);
      }
      const double hot = best(5, [&] {
        for (int r = 0; r < 16; r += 1) bench.ternary(k, 640, s[1], 1, 2048, (uint64_t)(640 * s[1] / 4 + 64), scratch);
      });
      printf("          vector   640x%-5ld in cache:       %5.1f GB/s\n", (long)s[1], 16.0 * 640 * (double)s[1] / 4 / hot / 1e9);
      for (int64_t T : {2, 4, 8, 16, 64, 256}) {
        if (slow && T > 2) continue;
        const uint64_t part = T >= 16 ? each + 64 : std::min<uint64_t>(limit, 4 * each + 64);
        const double t = best(3, [&] { bench.ternary(k, s[0], s[1], T, 4096, part, scratch); });
        const double done = (double)(part / each) * (double)each * 4 * (double)T;
        printf("          matrix %5ldx%-5ld %3ld tokens: %6.1f GMAC/s = %3.0f %% of peak\n", (long)s[0], (long)s[1], (long)T,
               done / t / 1e9, 100 * done / t / peak);
      }
    }
    for (int64_t T : {1, 4}) {
      const int64_t C = 2560, R = (int64_t)(limit / 2 / (uint64_t)C);
      std::vector<float> row_scale((size_t)R, 1.0f);
      for (int64_t prefetch : {0, 256, 1024, 2048, 4096, 8192}) {
        if (slow && prefetch) continue;
        Int8Args a{bench.weights, nullptr, R, row_scale.data(), C, R, 0, R, bench.codes, bench.scale.data(), T,
                   bench.out, prefetch};
        const double t = best(3, [&] { k.int8(a); });
        printf("          int8 head, %ld tokens, prefetch %5ld: %5.1f GB/s = %3.0f %% of read bandwidth\n", (long)T,
               (long)prefetch, (double)(R * C) / t / 1e9, 100 * (double)(R * C) / t / bandwidth);
      }
    }
    {
      const int64_t C = 2560, R = (int64_t)(limit / 4 / (uint64_t)C / 2);
      std::vector<float> x((size_t)C, 0.5f);
      for (int64_t prefetch : {0, 256, 1024, 2048, 4096, 8192}) {
        if (slow && prefetch) continue;
        DenseArgs a{(const uint8_t*)bench.halves.data(), Dense::bf16, C, R, 0, R, x.data(), 1, bench.out, prefetch};
        const double t = best(3, [&] { k.dense(a); });
        printf("          bf16 head, prefetch %5ld: %5.1f GB/s = %3.0f %% of read bandwidth\n", (long)prefetch,
               (double)(2 * R * C) / t / 1e9, 100 * (double)(2 * R * C) / t / bandwidth);
      }
    }
    for (int64_t keys : {512, 4096, 32768}) {
      if (slow && keys > 512) continue;
      const int64_t D = 128, blocks = keys / kBlock, each = k_head_floats(D) + v_head_floats(D), stride = keys + 16;
      std::vector<float> kv((size_t)(blocks * each), 0.25f), q((size_t)(kQueries * D), 0.5f), scores((size_t)(kQueries * stride));
      std::vector<float*> table;
      for (int64_t b = 0; b < blocks; b += 1) table.push_back(kv.data() + b * each);
      for (int queries : {4, kQueries}) {
        AttentionArgs a{};
        a.queries = queries;
        a.D = D;
        a.scale = 0.1f;
        a.scores = scores.data();
        a.score_stride = stride;
        a.v_at = k_head_floats(D);
        a.blocks = table.data();
        for (int g = 0; g < queries; g += 1) {
          a.q[g] = q.data() + g * D;
          a.out[g] = bench.out + g * D;
          a.first[g] = 0;
          a.end[g] = keys;
        }
        const int rounds = keys > 512 ? 2 : 20;
        const double t = best(5, [&] {
          for (int r = 0; r < rounds; r += 1) k.attention.whole(a);
        });
        printf("          attention, %5ld keys, %2d queries: %5.1f GMAC/s (float)\n", (long)keys, queries,
               (double)rounds * queries * (double)keys * D * 2 / t / 1e9);
      }
    }
    {
      const int64_t n = 5120, block = 1024;
      std::vector<float> signs((size_t)n, -1.0f);
      const double t = best(20, [&] { k.hybrid.hadamard(bench.out, signs.data(), nullptr, n, block, bench.out + n); });
      printf("          rotation of %ld in blocks of %ld: %5.2f us\n", (long)n, (long)block, 1e6 * t);
    }
    {
      // One layer of Qwen3.5 27B: a token from memory, then many with the state in cache.
      const int64_t D = 128, heads = 48, key_heads = 16, stride = (2 * key_heads + heads) * D, layers = 24;
      float* state = (float*)host_alloc((uint64_t)(layers * heads * delta_floats(D) * 4));
      if (!state) abort();
      std::vector<float> x((size_t)(128 * stride), 0.01f), gates((size_t)(128 * heads), 0.1f);
      const auto layer = [&](int64_t l, int64_t rows) {
        for (int64_t h = 0; h < heads; h += 1) {
          const float* q = x.data() + h % key_heads * D;
          k.hybrid.delta(DeltaArgs{q, q + key_heads * D, x.data() + (2 * key_heads + h) * D, stride, gates.data() + h, gates.data() + h,
                                   heads, -0.5f, 0.1f, rows, D, D, state + (l * heads + h) * delta_floats(D), bench.out + h * D, heads * D});
        }
      };
      const double token = best(3, [&] {
        for (int64_t l = 0; l < layers; l += 1) layer(l, 1);
      });
      const double bytes = (double)(layers * heads * delta_floats(D)) * 4;
      printf("          delta rule, 1 token: %5.1f GB/s read and as much written = %3.0f %% of read bandwidth\n", bytes / token / 1e9,
             100 * 2 * bytes / token / bandwidth);
      printf("          delta rule, 128 tokens: %5.1f us a token and layer\n", 1e6 * best(slow ? 1 : 3, [&] { layer(0, 128); }) / 128);
      host_free(state, (uint64_t)(layers * heads * delta_floats(D) * 4));
    }
    fflush(stdout);
  }
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  for (unsigned threads = 1; threads <= cores; threads *= 2) {
    std::vector<std::thread> all;
    std::atomic<uint64_t> sink{0};
    const double start = wall_seconds();
    for (unsigned t = 0; t < threads; t += 1)
      all.emplace_back([&, t] {
        const uint64_t share = bench.bytes / threads / 4096 * 4096;
        for (int r = 0; r < 4; r += 1) sink += tables[0]->read_bytes(bench.weights + share * t, (int64_t)share, 4096);
      });
    for (auto& t : all) t.join();
    printf("read with %u threads: %.1f GB/s (wall)\n", threads, 4.0 * (double)bench.bytes / (wall_seconds() - start) / 1e9);
  }
  return 0;
}
