// See pool.h.
#include "../include/pool.h"

#include <chrono>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <condition_variable>
#include <mutex>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace bitnet {

/** Where one thread sleeps until it is woken; a wake that comes first is kept. */
class Parking {
 public:
#if defined(__linux__)
  void wait() {
    while (woken_.exchange(0, std::memory_order_acquire) == 0) syscall(SYS_futex, &woken_, FUTEX_WAIT_PRIVATE, 0, nullptr);
  }
  void wake() {
    woken_.store(1, std::memory_order_release);
    syscall(SYS_futex, &woken_, FUTEX_WAKE_PRIVATE, 1);
  }

 private:
  alignas(64) std::atomic<int32_t> woken_{0};
  static_assert(sizeof(std::atomic<int32_t>) == 4, "a futex is four bytes");
#else
  void wait() {
    std::unique_lock<std::mutex> hold(mutex_);
    condition_.wait(hold, [this] { return woken_; });
    woken_ = false;
  }
  void wake() {
    {
      std::lock_guard<std::mutex> hold(mutex_);
      woken_ = true;
    }
    condition_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool woken_ = false;
#endif
};

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSpin = std::chrono::microseconds(20), kPatience = std::chrono::microseconds(2);
constexpr int64_t kMostClaims = 65535, kMostOfRange = 4095;
constexpr int kGroup = 4;
constexpr uint64_t kSerials = (uint64_t)1 << 40;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/** The board's word. */
struct Board {
  uint64_t serial;
  int64_t claims, active;
  explicit Board(uint64_t word) : serial(word >> 24), claims((int64_t)(word >> 8 & 0xffff)), active((int64_t)(word & 0xff) + 1) {}
  static uint64_t pack(uint64_t serial, int64_t claims, int active) {
    return serial % kSerials << 24 | (uint64_t)claims << 8 | (uint64_t)(active - 1);
  }
  /** Of a step that began at serial number `base`. */
  int32_t stage(uint64_t base) const { return (int32_t)((serial - base) % kSerials); }
  int64_t first(int64_t thread) const { return claims * thread / active; }
  /** Claims of threads [from, to). */
  int64_t of(int64_t from, int64_t to) const { return first(to < active ? to : active) - first(from < active ? from : active); }
};

/** Whether serial a comes after b. */
bool later(uint64_t a, uint64_t b) { return a != b && (a - b) % kSerials < kSerials / 2; }

/** Adds to a count that belongs to a stage, from 0 where the word is of an earlier one; the new count. */
int64_t add(std::atomic<uint64_t>& word, uint64_t serial, int64_t n) {
  uint64_t seen = word.load(std::memory_order_relaxed);
  for (;;) {
    const uint64_t count = (seen >> 24 == serial ? seen & 0xffffff : 0) + (uint64_t)n;
    if (word.compare_exchange_weak(seen, serial << 24 | count, std::memory_order_acq_rel, std::memory_order_relaxed))
      return (int64_t)count;
  }
}

/** A quarter of the L2 cache, where the system tells; a small one's otherwise. */
int64_t bytes_ahead() {
  int64_t cache = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  cache = (int64_t)sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
  const int64_t part = cache / 4;
  return part < (64 << 10) ? 64 << 10 : part > (512 << 10) ? 512 << 10 : part;
}

}  // namespace

/** Asks for some lines; false when there is nothing more to ask for. */
bool Pool::Plan::step() {
  for (int i = 0; i < 4; i += 1) {
    while (piece < kPieces && at[piece] >= end[piece]) piece += 1;
    if (piece == kPieces) return false;
    __builtin_prefetch(at[piece], 0, 2);
    at[piece] += 64;
  }
  return true;
}

Pool::Pool(int threads, const std::vector<int>& edges)
    : threads_(threads < 1 ? 1 : threads > 256 ? 256 : threads),
      ahead_(bytes_ahead()),
      ranges_((size_t)threads_),
      groups_((size_t)(threads_ + kGroup - 1) / kGroup),
      plans_((size_t)threads_) {
  for (ThreadChoice& choice : choices_) choice = ThreadChoice(threads_, edges);
  for (int i = 0; i < threads_; i += 1) parking_.emplace_back(new Parking);
  try {
    for (int i = 1; i < threads_; i += 1) workers_.emplace_back([this, i] { worker(i); });
  } catch (...) {
    // The destructor does not run for a half-made object.
    stop_.store(true);
    wake(threads_, threads_);
    for (auto& w : workers_) w.join();
    throw;
  }
}

Pool::~Pool() {
  stop_.store(true);
  wake(threads_, threads_);
  for (auto& w : workers_) w.join();
}

void Pool::worker(int id) {
  uint64_t seen = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    const uint64_t board = board_.load(std::memory_order_acquire);
    if (board == seen || !work(board, id)) {
      seen = board;
      wait_while(board, id);
    }
  }
}

/** Takes a claim of a thread's range, from the front or from the back; -1 when none is left or the stage is over. */
int64_t Pool::take(uint64_t board, int thread, bool front) {
  const Board b(board);
  const int64_t first = b.first(thread), count = b.first(thread + 1) - first;
  if (count == 0) return -1;
  std::atomic<uint64_t>& word = ranges_[(size_t)thread].word;
  uint64_t seen = word.load(std::memory_order_acquire);
  for (;;) {
    const uint64_t tag = seen >> 24;
    int64_t begin = (int64_t)(seen >> 12 & 0xfff), end = (int64_t)(seen & 0xfff);
    if (tag != b.serial) {
      // A stage is not over before each of its ranges was begun, so an older word is of no finished one.
      if (later(tag, b.serial)) return -1;
      begin = 0, end = count;
    }
    if (begin >= end) return -1;
    const int64_t claim = front ? begin : end - 1;
    if (front) begin += 1;
    else end -= 1;
    const uint64_t taken = b.serial << 24 | (uint64_t)begin << 12 | (uint64_t)end;
    if (word.compare_exchange_weak(seen, taken, std::memory_order_acq_rel, std::memory_order_acquire)) return first + claim;
  }
}

// Holding an item of the stage keeps the step alive, so the plain members are stable.
void Pool::run_claim(uint64_t board, int64_t claim, int id) {
  const int32_t stage = Board(board).stage(base_);
  const int64_t batch = batch_.load(std::memory_order_relaxed), items = items_.load(std::memory_order_relaxed);
  const int64_t last = (claim + 1) * batch < items ? (claim + 1) * batch : items;
  for (int64_t i = claim * batch; i < last; i += 1) engine_run_item(engine_, stage, (int32_t)i, id);
}

/** Counts claims of a thread's range as done; true for the last ones of the stage. */
bool Pool::finish(uint64_t board, int thread, int64_t claims) {
  const Board b(board);
  const int64_t group = thread / kGroup, groups = (b.active + kGroup - 1) / kGroup;
  const int64_t all = b.of(group * kGroup, (group + 1) * kGroup);
  if (add(groups_[(size_t)group].word, b.serial, claims) < all) return false;
  if (groups == 1) return true;
  int64_t busy = groups;
  if (b.claims < b.active) {
    busy = 0;
    for (int64_t g = 0; g < groups; g += 1) busy += b.of(g * kGroup, (g + 1) * kGroup) > 0;
  }
  return add(root_.word, b.serial, 1) == busy;
}

/** Runs the items of a thread's own range. False when there were none. */
bool Pool::work(uint64_t board, int id) {
  if (id >= Board(board).active) return false;
  int64_t done = 0;
  for (int64_t claim; (claim = take(board, id, true)) >= 0; done += 1) run_claim(board, claim, id);
  if (done == 0) return false;
  const int32_t stage = Board(board).stage(base_);
  // While the step is certainly alive: before the others can end it.
  look_ahead(stage + 1, id);
  if (finish(board, id, done)) advance(stage + 1, id);
  return true;
}

/** Runs items of others' ranges, the last ones first. */
bool Pool::steal(uint64_t board, int id) {
  const int active = (int)Board(board).active;
  bool any = false;
  for (int k = 1; k < active; k += 1) {
    const int victim = (id + k) % active;
    for (int64_t claim; (claim = take(board, victim, false)) >= 0; any = true) {
      run_claim(board, claim, id);
      const int32_t stage = Board(board).stage(base_);
      if (finish(board, victim, 1)) {
        advance(stage + 1, id);
        return true;
      }
    }
  }
  return any;
}

/** Plans to ask for this thread's part of the next matrices while it waits. */
void Pool::look_ahead(int32_t stage, int id) {
  Plan& plan = plans_[(size_t)id];
  for (const int32_t to = stage + 6 < stages_ ? stage + 6 : stages_; stage < to; stage += 1) {
    Blob pieces[Plan::kPieces];
    const int n = engine_weights(engine_, stage, id, active_, pieces, Plan::kPieces);
    if (n == 0) continue;
    if (plan.stage == stage) return;
    plan.stage = stage;
    int64_t left = ahead_;
    for (int i = 0; i < Plan::kPieces; i += 1) {
      const int64_t size = i < n ? (int64_t)pieces[i].size < left ? (int64_t)pieces[i].size : left : 0;
      plan.at[i] = size ? (const char*)pieces[i].data : nullptr;
      plan.end[i] = size ? plan.at[i] + size : nullptr;
      left -= size;
    }
    plan.piece = 0;
    return;
  }
}

/** Goes on to a stage, or to the end: called by whoever finished the one before. */
void Pool::advance(int32_t stage, int id) {
  for (;; stage += 1) {
    // After a NaN the remaining stages would compute on garbage: the step ends here.
    if (stage >= stages_ || engine_failed(engine_)) break;
    const int64_t items = engine_items(engine_, stage);
    if (items == 0) continue;
    if (engine_starts_layer(engine_, stage) && choice_) {
      // Between layers, where the next measurement may take another number of threads.
      if (segment_.open) choice_->record(segment_.seconds() / segment_.work);
      active_ = choice_->next();
      segment_.begin();
    }
    segment_.work += (double)engine_stage_work(engine_, stage);
    if (items == 1 || active_ == 1) {
      for (int64_t i = 0; i < items; i += 1) engine_run_item(engine_, stage, (int32_t)i, id);
      continue;
    }
    const int64_t most = kMostOfRange * active_ < kMostClaims ? kMostOfRange * active_ : kMostClaims;
    const int64_t batch = (items + most - 1) / most, claims = (items + batch - 1) / batch;
    batch_.store((int32_t)batch, std::memory_order_relaxed);
    items_.store((int32_t)items, std::memory_order_relaxed);
    const int active = active_;
    // From here on the next stages may run, and the step may end: nothing of this one is read any more.
    board_.store(Board::pack(base_ + (uint64_t)stage, claims, active), std::memory_order_seq_cst);
    wake(active, 2);
    return;
  }
  board_.store(Board::pack(base_ + (uint64_t)stages_, 0, active_), std::memory_order_seq_cst);
  // The caller of run().
  wake(1, 1);
}

/** Wakes some of the sleeping threads below an id; those that wake do the same. */
void Pool::wake(int below, int most) {
  for (int w = 0; w * 64 < below && most > 0; w += 1) {
    const uint64_t concerned = below - w * 64 >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << (below - w * 64)) - 1;
    uint64_t seen = asleep_[w].load(std::memory_order_seq_cst) & concerned;
    for (; seen && most > 0; seen &= seen - 1) {
      const uint64_t bit = seen & (~seen + 1);
      if (!(asleep_[w].fetch_and(~bit, std::memory_order_seq_cst) & bit)) continue;
      parking_[(size_t)(w * 64 + __builtin_ctzll(bit))]->wake();
      most -= 1;
    }
  }
}

/** Returns when the board has changed, or its stage was brought to an end here. */
void Pool::wait_while(uint64_t board, int id) {
  const Board b(board);
  // Who takes no part would only be in the way of its neighbor on the same core.
  if (id < b.active) {
    Plan& plan = plans_[(size_t)id];
    bool asking = true;
    const Clock::time_point start = Clock::now();
    Clock::time_point patient = start + kPatience;
    for (;;) {
      for (int i = 0; i < 16; i += 1) {
        if (board_.load(std::memory_order_acquire) != board) return;
        if (asking) asking = plan.step();
        else relax();
      }
      const Clock::time_point now = Clock::now();
      if (b.claims > 0 && now > patient) {
        if (steal(board, id)) return;
        patient = Clock::now() + kPatience;
      }
      if (now > start + kSpin) break;
    }
  }
  sleep_while(board, id);
}

void Pool::sleep_while(uint64_t board, int id) {
  std::atomic<uint64_t>& word = asleep_[id / 64];
  const uint64_t bit = (uint64_t)1 << (id % 64);
  word.fetch_or(bit, std::memory_order_seq_cst);
  // Whoever publishes after this sees the bit.
  const uint64_t seen = board_.load(std::memory_order_seq_cst);
  const bool concerned = seen != board && (id == 0 || id < Board(seen).active);
  if ((concerned || stop_.load()) && (word.fetch_and(~bit, std::memory_order_seq_cst) & bit)) return;
  parking_[(size_t)id]->wait();
  const Board now(board_.load(std::memory_order_acquire));
  if (now.claims > 0) wake((int)now.active, 2);
  if (stop_.load()) wake(threads_, threads_);
}

void Pool::run(Engine* engine, bool alone) {
  const int32_t stages = engine_stages(engine);
  const StepKind kind = step_kind(engine_rows(engine));
  alone_[(int)kind] = alone;
  if (alone || threads_ == 1 || fixed_ == 1) {
    for (int32_t s = 0; s < stages && !engine_failed(engine); s += 1) {
      const int32_t items = engine_items(engine, s);
      for (int32_t i = 0; i < items; i += 1) engine_run_item(engine, s, i, 0);
    }
    return;
  }
  ThreadChoice& choice = choices_[(int)kind];
  engine_ = engine;
  stages_ = stages;
  // A step of many rows is long: its layers are measured one by one. One of few rows is measured as a whole.
  choice_ = fixed_ == 0 && kind == StepKind::many ? &choice : nullptr;
  active_ = fixed_ ? fixed_ : choice.next();
  segment_ = SegmentClock{};
  const Clock::time_point start = Clock::now();
  base_ = (Board(board_.load(std::memory_order_relaxed)).serial + 1) % kSerials;
  const uint64_t end = (base_ + (uint64_t)stages) % kSerials;
  advance(0, 0);
  for (;;) {
    const uint64_t board = board_.load(std::memory_order_acquire);
    if (Board(board).serial == end) break;
    if (!work(board, 0) && board_.load(std::memory_order_acquire) == board) wait_while(board, 0);
  }
  if (fixed_ == 0 && kind != StepKind::many) {
    int32_t& rows = rows_[(int)kind];
    if (engine_rows(engine) != rows) choice.interrupt();
    rows = engine_rows(engine);
    choice.record(std::chrono::duration<double>(Clock::now() - start).count());
  }
}

}  // namespace bitnet
