// How many threads help: measured on the steps themselves, so that it costs no time of its own and follows what else the
// machine does. Pairs of candidates take turns for a few measurements each; the faster median wins, and of two alike the
// one with fewer threads.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace bitnet {

/** Steps that differ in what limits them: one row, memory; a few rows; many rows, the multiply-add units. */
enum class StepKind : int { one = 0, few = 1, many = 2 };
constexpr int kStepKinds = 3;
constexpr int32_t kManyRows = 16;
constexpr StepKind step_kind(int32_t rows) {
  return rows == 1 ? StepKind::one : rows < kManyRows ? StepKind::few : StepKind::many;
}

/** The choice for one kind of step. Not for use by several threads at once. */
class ThreadChoice {
 public:
  /** `edges`: numbers of threads that fill whole caches or nodes of the machine. */
  explicit ThreadChoice(int most = 1, const std::vector<int>& edges = {}) {
    // All, three quarters, half, three eighths, .. and powers of two, as cores often come.
    for (int n = most; n >= 1; n -= 1) {
      bool is = (n & (n - 1)) == 0;
      for (int part = most; part >= n; part /= 2) is = is || part == n || (n > 4 && part * 3 / 4 == n);
      if (is) counts_.push_back(n == most ? n : at_edge(n, most, edges));
    }
    // No more of them than without edges: each costs a comparison.
    std::sort(counts_.begin(), counts_.end(), std::greater<int>());
    counts_.erase(std::unique(counts_.begin(), counts_.end()), counts_.end());
    try_count(1);
  }

  /** What is tried, falling. */
  const std::vector<int>& counts() const { return counts_; }
  int best() const { return counts_[(size_t)best_]; }
  /** Threads of the next measurement. */
  int next() const { return counts_[(size_t)(trial_ >= 0 && turn_ % 2 ? trial_ : best_)]; }
  /** Whether a first round of comparisons has come to an end: best() is then a finding. */
  bool found() const { return counts_.size() == 1 || found_; }
  /** Comparisons decided so far. */
  int decided() const { return decided_; }

  /** Seconds that a unit of work took on next() threads. */
  void record(double seconds) {
    if (counts_.size() == 1) return;
    if (trial_ >= 0) {
      (turn_ % 2 ? tried_ : kept_).push_back(seconds);
      turn_ += 1;
      if (turn_ == 2 * (first_ ? kFirstPairs : kPairs) || (turn_ == 2 * kClearPairs && clearly_slower())) decide();
      return;
    }
    recent_.push_back(seconds);
    if (recent_.size() < kRecent) return;
    const double now = median(recent_);
    recent_.clear();
    waited_ += kRecent;
    // Another pace than when this choice was made: something else computes, or has stopped to.
    if (now > 1.25 * pace_ || now < 0.75 * pace_) {
      hold_ = 0;
      first_ = true;
      toward_ = now > pace_ ? -1 : 1;  // turned by begin_round
    }
    if (waited_ >= hold_) begin_round();
  }

  /** Work of another size follows, which is not compared with what was measured so far. */
  void interrupt() {
    turn_ = 0;
    kept_.clear();
    tried_.clear();
    recent_.clear();
  }

 private:
  static constexpr int kFirstPairs = 3, kPairs = 5, kClearPairs = 2;
  static constexpr size_t kRecent = 8;
  static constexpr int kMovedHold = 32, kLeastHold = 64, kMostHold = 1024;

  /** The nearest edge, where one is within an eighth. */
  static int at_edge(int n, int most, const std::vector<int>& edges) {
    int best = n, off = n / 8 + 1;
    for (const int edge : edges) {
      const int distance = edge < n ? n - edge : edge - n;
      if (edge >= 1 && edge <= most && distance < off) best = edge, off = distance;
    }
    return best;
  }

  static double median(std::vector<double>& v) {
    std::nth_element(v.begin(), v.begin() + (std::ptrdiff_t)(v.size() / 2), v.end());
    return v[v.size() / 2];
  }

  bool try_count(int index) {
    interrupt();
    trial_ = index >= 0 && index < (int)counts_.size() ? index : -1;
    return trial_ >= 0;
  }

  /** What takes a third longer whenever it is tried need not be tried to the end. */
  bool clearly_slower() const {
    return *std::min_element(tried_.begin(), tried_.end()) > 1.3 * *std::max_element(kept_.begin(), kept_.end());
  }

  void decide() {
    const double kept = median(kept_), tried = median(tried_);
    // More threads have to earn it; fewer only have to do as well.
    const bool won = toward_ > 0 ? tried < 1.02 * kept : tried < 0.97 * kept;
    pace_ = won ? tried : kept;
    decided_ += 1;
    if (won) best_ = trial_, moved_ = true;
    misses_ = won ? 0 : misses_ + 1;
    // At first, and when the pace has changed, one more is looked at: half may help where three quarters do not.
    if (misses_ < (first_ ? 2 : 1) && try_count(trial_ + toward_)) return;
    trial_ = -1;
    first_ = false;
    found_ = true;
    waited_ = 0;
    hold_ = moved_ ? kMovedHold : std::min(std::max(2 * hold_, kLeastHold), kMostHold);
    interrupt();
  }

  void begin_round() {
    moved_ = false;
    misses_ = 0;
    toward_ = -toward_;
    if (try_count(best_ + toward_)) return;
    toward_ = -toward_;
    try_count(best_ + toward_);
  }

  std::vector<int> counts_;  // falling
  int best_ = 0;
  int trial_ = -1;   // or none
  int toward_ = 1;   // fewer threads
  int turn_ = 0, misses_ = 0, decided_ = 0, waited_ = 0, hold_ = kLeastHold;
  bool moved_ = false, first_ = true, found_ = false;
  double pace_ = 0;
  std::vector<double> kept_, tried_, recent_;
};

/** Times stretches of a step: what ran between two marks, and how much work it was. */
struct SegmentClock {
  std::chrono::steady_clock::time_point start;
  double work = 0;
  bool open = false;

  void begin() {
    start = std::chrono::steady_clock::now();
    work = 0;
    open = true;
  }
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }
};

}  // namespace bitnet
