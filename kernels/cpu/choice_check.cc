// scripts/kernel-sanitize: the choice of a number of threads (thread_choice.h) on made-up machines whose times are known.
#include <stdio.h>
#include <stdlib.h>

#include <functional>

#include "../include/thread_choice.h"

using namespace bitnet;

namespace {

struct Noise {
  uint64_t state = 1;
  /** Within `part` of 1. */
  double next(double part) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return 1 + part * (2.0 * (double)(state >> 40) / (double)(1 << 24) - 1);
  }
};

using Machine = std::function<double(int threads)>;

/** Runs steps; how much longer they took, on average, than with the best number of threads. */
double excess(ThreadChoice& choice, const Machine& seconds, int most, int steps, double noise, Noise& random) {
  double least = 1e9, spent = 0;
  for (int n = 1; n <= most; n += 1) least = std::min(least, seconds(n));
  for (int i = 0; i < steps; i += 1) {
    const double took = seconds(choice.next());
    spent += took;
    choice.record(took * random.next(noise));
  }
  return spent / (steps * least) - 1;
}

int failures = 0;

void expect(bool fine, const char* machine, int most, double value) {
  if (fine) return;
  printf("choice of threads: %s, at most %d: %.3f\n", machine, most, value);
  failures += 1;
}

}  // namespace

int main() {
  const struct {
    const char* name;
    Machine seconds;
  } machines[] = {
      {"work that divides", [](int n) { return 1.0 / n + 0.001; }},
      {"memory full at four", [](int n) { return std::max(1.0 / n, 0.25) + 0.001 * n; }},
      {"only one helps", [](int n) { return 1 + 0.3 * (n - 1); }},
      {"half help, three quarters do not", [](int n) { return n <= 8 ? 1.0 / n : n == 16 ? 0.16 : 0.2; }},
      {"all alike", [](int) { return 1.0; }},
  };
  Noise random;
  for (const auto& m : machines)
    for (int most : {1, 2, 3, 4, 6, 8, 12, 16, 32, 64}) {
      ThreadChoice choice(most);
      excess(choice, m.seconds, most, 60, 0.04, random);
      const double later = excess(choice, m.seconds, most, 400, 0.04, random);
      // The counts that are tried lie up to a quarter apart; comparing goes on and costs a little.
      expect(later < 0.15, m.name, most, later);
      if (m.seconds(1) != m.seconds(most)) continue;
      excess(choice, m.seconds, most, 2000, 0.04, random);
      expect(choice.best() * 2 <= most + 1, "fewer where they do as well", most, choice.best());
    }
  {
    // One of two threads is twice as slow: that shows in two steps.
    ThreadChoice choice(2);
    int slow = 0;
    for (int i = 0; i < 100; i += 1) {
      slow += choice.next() == 1;
      choice.record((choice.next() == 1 ? 1 : 0.52) * random.next(0.04));
    }
    expect(choice.best() == 2 && choice.decided() == 1 && slow == 2, "a clear loser", 2, slow);
  }
  {
    // A thread loses its core now and then for far longer than a step takes, and then all wait for it. What a run comes to
    // is chance; many runs together must not be far from the best.
    const int runs = 100, steps = 300;
    for (const int most : {2, 16}) {
      double sum = 0, least = 1e9;
      const auto step = [&](int n) {
        double worst = 0;
        for (int i = 0; i < n; i += 1) {
          const bool lost = random.next(1) < (most == 2 ? 0.3 : 0.1);
          const double delay = (most == 2 ? 1.0 : 0.3) * random.next(1);
          if (lost) worst = std::max(worst, delay);
        }
        return 1.0 / n + 0.01 * n + worst;
      };
      for (int n = 1; n <= most; n += 1) {
        double mean = 0;
        for (int i = 0; i < 20000; i += 1) mean += step(n) / 20000;
        least = std::min(least, mean);
      }
      for (int run = 0; run < runs; run += 1) {
        ThreadChoice choice(most);
        for (int i = 0; i < steps; i += 1) {
          const double took = step(choice.next());
          sum += took / (runs * steps);
          choice.record(took);
        }
      }
      expect(sum / least < 1.15, "threads that lose their cores", most, sum / least);
    }
  }
  {
    // Three caches of six processors: a count close to a full one lies on it, and none is added.
    const std::vector<int> edges = {6, 12, 18};
    const ThreadChoice choice(18, edges), plain(18);
    expect(choice.counts() == std::vector<int>({18, 12, 9, 8, 6, 4, 2, 1}), "three caches of six", 18, choice.counts()[1]);
    expect(plain.counts() == std::vector<int>({18, 16, 13, 9, 8, 6, 4, 2, 1}), "no caches known", 18, plain.counts()[1]);
    for (int most : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256})
      for (int cache : {1, 2, 3, 4, 5, 6, 8, 12, 16, 64}) {
        std::vector<int> full;
        for (int n = cache; n <= most + cache; n += cache) full.push_back(n);
        const ThreadChoice at_edges(most, full);
        const std::vector<int>& counts = at_edges.counts();
        const bool falls = std::is_sorted(counts.rbegin(), counts.rend()) && counts.front() == most && counts.back() >= 1;
        expect(falls && counts.size() <= ThreadChoice(most).counts().size(), "counts at edges", most, cache);
      }
    // Six that share a cache hold each other up: a fuller machine is faster only by whole caches.
    const Machine caches = [](int n) { return n == 18 ? 1.2 / 12 : n % 6 == 0 ? 1.0 / n : 1.3 / n; };
    Noise noise;
    ThreadChoice found(18, edges);
    excess(found, caches, 18, 100, 0.03, noise);
    expect(found.best() == 12, "two caches of three", 18, found.best());
    expect(found.found() && !ThreadChoice(18).found() && ThreadChoice(1).found(), "found", 18, found.best());
  }
  {
    // Another program takes half of the cores, then leaves.
    const Machine quiet = [](int n) { return 1.0 / n; };
    const Machine busy = [](int n) { return n <= 8 ? 1.0 / n : 2.0 / n + 0.1; };
    ThreadChoice choice(16);
    excess(choice, quiet, 16, 200, 0.03, random);
    expect(choice.best() == 16, "alone", 16, choice.best());
    excess(choice, busy, 16, 200, 0.03, random);
    expect(choice.best() == 8, "beside another program", 16, choice.best());
    excess(choice, quiet, 16, 600, 0.03, random);
    expect(choice.best() >= 12, "alone again", 16, choice.best());
  }
  if (failures == 0) printf("threads are chosen well on machines of every kind\n");
  return failures > 0;
}
