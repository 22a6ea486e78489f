// Runs the items of an engine's step on several threads. Native builds only.
//
// A stage's items are dealt out as one range per thread, so each thread reads one sequential stream of weights; who
// finishes early steals from the back of another's range. A stage is over when its items are done, not when all
// threads have arrived: a thread that lost its core holds up the others by the one item it may hold, no more. Threads
// that find nothing spin for about 20 us and then sleep until a stage with work for several is published.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "engine.h"

namespace bitnet {

class Pool {
 public:
  /** Starts threads - 1 workers; the caller of run() is the remaining one. May throw std::system_error. */
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  /** Runs every stage of the step that engine_begin prepared, on all threads or on the caller's alone. */
  void run(Engine* engine, bool alone);

 private:
  // Tag (serial number of the stage, 32 bits), begin and end (16 bits each). The tag makes a late thread's claim fail.
  struct alignas(64) Range {
    std::atomic<uint64_t> word{0};
  };

  void worker(int id);
  bool work(uint32_t serial, int id);
  void publish(uint32_t serial, int finisher);
  void wait_while(uint32_t serial);

  const int threads_;
  std::vector<Range> ranges_;
  std::vector<std::thread> workers_;

  // Of the running step; read only by a thread that holds an item of it.
  Engine* engine_ = nullptr;
  uint32_t base_ = 0;
  int32_t stages_ = 0;

  alignas(64) std::atomic<uint32_t> current_{0};
  alignas(64) std::atomic<int32_t> left_{0};
  std::atomic<int32_t> batch_{1};
  std::atomic<int32_t> items_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace bitnet
