// Runs the items of an engine's step on several threads. Native builds only.
//
// A stage's items are dealt out as one range per thread, so each thread reads one sequential stream of weights. Who is done
// early asks for the beginning of its part of the next matrices; when the others still work after some microseconds (a core
// was lost to another program), it takes items from the back of their ranges. A stage is over when its items are done, not
// when all threads have arrived: a thread that lost its core holds up the others by the one item it may hold, no more.
// Stages of one item run on the thread that finished the one before, unannounced.
//
// Threads that find nothing spin for about 20 us and then sleep until a stage with work for several is published; each that
// wakes wakes two more.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "engine.h"
#include "thread_choice.h"

namespace bitnet {

class Parking;

class Pool {
 public:
  /**
   * Starts threads - 1 workers; the caller of run() is the remaining one. `edges`: as ThreadChoice has them. May throw
   * std::system_error. No thread is pinned: the system moves them away from whatever else runs.
   */
  explicit Pool(int threads, const std::vector<int>& edges = {});
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  /** How many threads run steps from the next one on: 1..threads(), or 0 for as many as turn out to help. */
  void use(int threads) { fixed_ = threads < 0 ? 0 : threads > threads_ ? threads_ : threads; }
  /** How many run steps of that kind now. */
  int used(StepKind kind) const { return fixed_ ? fixed_ : alone_[(int)kind] ? 1 : choices_[(int)kind].best(); }
  /** Whether that number is what measurement came to; never where one was given. */
  bool found(StepKind kind) const { return !fixed_ && (alone_[(int)kind] || choices_[(int)kind].found()); }

  /** Runs every stage of the step that engine_begin prepared, on several threads or on the caller's alone. */
  void run(Engine* engine, bool alone);

 private:
  // Both kinds of words begin with the serial number of the stage, 40 bits: a late thread's claim fails, and who comes
  // first to a word of an earlier stage starts it anew. Nobody has to write them all.
  struct alignas(64) Word {
    std::atomic<uint64_t> word{0};
  };
  /** What a waiting thread asks for: its part of the next matrices. */
  struct alignas(64) Plan {
    static constexpr int kPieces = 4;
    const char* at[kPieces];
    const char* end[kPieces];
    int piece = kPieces;
    int32_t stage = -1;
    bool step();
  };

  void worker(int id);
  bool work(uint64_t board, int id);
  bool steal(uint64_t board, int id);
  int64_t take(uint64_t board, int thread, bool front);
  void run_claim(uint64_t board, int64_t claim, int id);
  bool finish(uint64_t board, int thread, int64_t claims);
  void advance(int32_t stage, int id);
  void look_ahead(int32_t stage, int id);
  void wait_while(uint64_t board, int id);
  void sleep_while(uint64_t board, int id);
  void wake(int below, int most);

  const int threads_;
  const int64_t ahead_;  // bytes
  std::vector<Word> ranges_, groups_;
  std::vector<Plan> plans_;
  std::vector<std::unique_ptr<Parking>> parking_;
  std::vector<std::thread> workers_;
  int fixed_ = 0;
  int32_t rows_[kStepKinds] = {};
  bool alone_[kStepKinds] = {};  // the last step of that kind was too small for several
  ThreadChoice choices_[kStepKinds];

  // Of the running step; read only by a thread that holds an item of it.
  Engine* engine_ = nullptr;
  uint64_t base_ = 0;
  int32_t stages_ = 0;
  int active_ = 1;
  ThreadChoice* choice_ = nullptr;
  SegmentClock segment_;

  // Serial number (40 bits), claims (16), threads that share them less one (8).
  alignas(64) std::atomic<uint64_t> board_{0};
  std::atomic<int32_t> batch_{1};
  std::atomic<int32_t> items_{0};
  alignas(64) Word root_;
  alignas(64) std::atomic<uint64_t> asleep_[4] = {};  // a bit for each thread
  std::atomic<bool> stop_{false};
};

}  // namespace bitnet
