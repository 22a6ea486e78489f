// The two ways to run a step. `bitnet_one` and `bitnet_step`, of one row: one launch, one block on each multiprocessor, a barrier of the grid between
// instructions; while blocks wait, their next weights are on the way. The others: one launch an instruction, for steps of several
// rows and cards that the first does not suit. What takes most of the time of several rows has kernels of its own, so that each has
// all registers: as functions of one kernel they spilled, and waited for local memory.
#include "attend-split.cuh"
#include "attention_rows.cuh"
#include "hybrid.cuh"
#include "one-products.cuh"
#include "products_many.cuh"
#include "rows_many.cuh"
#include "top.cuh"

/** Operations without a part before the barrier. */
APART void run_plain(const Instruction& I, const Input& in) {
  switch (I.op) {
    case EMBED:
      run_embed(I, in);
      break;
    case ROWS:
      run_rows(I);
      break;
    case TERNARY:
      ternary_some_ahead(I);
      ternary_some(I);
      break;
    case GROUPED:
      if (I.group % 32 != 0) grouped_plain(I);
      else grouped_rows(I);
      break;
    case INT8:
      int8_rows<4>(I);
      break;
    case DENSE:
      dense_rows(I);
      break;
    case HEADS:
      run_heads(I);
      break;
    case ROPE:
      run_rope(I, in);
      break;
    case ATTEND:
      attend(I, in);
      break;
    case ATTEND_ONE:
      attend_one(I, in);
      break;
    case SCORES:
      scores(I, in);
      break;
    case VALUES:
      values(I, in);
      break;
    case SELECT:
      run_select(I, in);
      break;
    case COUNT:
      run_count(I);
      break;
    case TOP_OF_SHARES:
      top_of_shares(I);
      break;
    case TELL_TOP:
      tell_top(I);
      break;
    case SPLIT:
      run_split(I);
      break;
    case CONV:
      run_conv(I, in);
      break;
    case LENGTHS:
      run_lengths(I);
      break;
    case DELTA:
      run_delta(I, in);
      break;
    case ROUTE:
      run_route(I);
      break;
    case SORT:
      run_sort(I);
      break;
    case EXPERTS:
      run_experts(I);
      break;
    case ADD_EXPERTS:
      run_add_experts(I);
      break;
    case DENSE_SMALL:
      run_dense_small(I);
      break;
    case SEGMENTS:
      run_segments(I);
      break;
    case ROUND:
      run_round(I);
      break;
    case NARROW_ROWS:
      run_narrow(I);
      break;
  }
}

/** In functions of their own, for kernels that have all operations. */
APART Told run_ternary_one(const Instruction& I, const Gate& gate) { return ternary_one(I, gate); }
APART void run_grouped_one(const Instruction& I, const Gate& gate) { grouped_one(I, gate); }
APART void run_int8_one(const Instruction& I, const Gate& gate) { int8_one(I, gate); }

/** Everything but ATTEND_SPLIT, whose blocks wait for one another. */
DEVICE Told run(const Instruction& I, const Input& in, const Gate& gate) {
  if (I.fused) {
    switch (I.op) {
      case TERNARY:
        return run_ternary_one(I, gate);
      case GROUPED:
        run_grouped_one(I, gate);
        return UNTOLD;
      case INT8:
        run_int8_one(I, gate);
        return UNTOLD;
      case ATTEND_ONE:
      case SCORES:
      case VALUES:
        attend_ahead(I, in);
        break;
    }
  }
  if (I.op == DELTA) delta_ahead(I, in);
  gate.pass();
  run_plain(I, in);
  return UNTOLD;
}

/**
 * The operations of ONE_ROW in encode.ts, of products those KINDS, and no others: their code stands here and is not called, since a call costs local
 * memory, and is fetched again in every layer. Fewer kinds need fewer registers: a spilled one is as far away as L2.
 */
constexpr u32 TERNARIES = 1, GROUPS = 2, FLOATS = 4;
template <u32 KINDS> DEVICE Told run_one(const Instruction& I, const Input& in, u32 tag, const Gate& gate) {
  switch (I.op) {
    case TERNARY:
      if (KINDS & TERNARIES) return ternary_one(I, gate);
      return UNTOLD;
    case GROUPED:
      if (KINDS & GROUPS) grouped_one(I, gate);
      return UNTOLD;
    case ATTEND_SPLIT:
      // Its product has no norm to do it in.
      if ((KINDS & GROUPS) && bulk_copies() && thread() == ASKER) fetch_next(gate);
      return attend_split<KINDS == TERNARIES>(I, in, tag, gate);
    case INT8:
      int8_one(I, gate);
      return UNTOLD;
  }
  gate.pass();
  switch (I.op) {
    case EMBED:
      run_embed(I, in);
      break;
    case DENSE:
      if (KINDS & FLOATS) dense_rows(I);
      break;
    case DENSE_SMALL:
      if (KINDS & FLOATS) run_dense_small(I);
      break;
    case TOP_OF_SHARES:
      top_of_shares(I);
      break;
    case TELL_TOP:
      tell_top(I);
      break;
  }
  return UNTOLD;
}

DEVICE const Instruction& held(u32 i) { return *(const Instruction*)shared().ring[i % 3]; }

DEVICE void know_row(const Input& in) {
  if (thread_anew() != 0) return;
  shared().position = *in.at<u32>(in.positions);
  shared().table_row = *in.at<u32>(in.table_rows);
  shared().share.heads = 0;
  begin_arrivals();
}

/** Asks for instruction i of n, by a warp without results, mostly: it has come once its copies have. */
constexpr u32 KEEPER = 64;
DEVICE void ask_instruction(u64 list, u32 n, u32 i) {
  const u32 at = (thread_anew() - KEEPER) * 16;
  if (i < n && at < INSTRUCTION_BYTES) copy_ahead(shared().ring[i % 3] + at, (const char*)list + (u64)i * INSTRUCTION_BYTES + at);
}

#ifdef BITNET_PROFILE
/** Clocks of block 0, behind the barrier: when each instruction had ended there. */
DEVICE void note(u64 barrier, u32 i) {
  if (block() == 0 && thread() == 0) ((u64*)barrier)[8 + i] = (u64)clock64();
}
/** Behind them the marks. */
DEVICE void begin_marks() {
  Shared& s = shared();
  for (u32 i = thread(); i < 144; i += THREADS) (&s.marks[0][0])[i] = 0;
  if (thread() == 0) s.marked = (u32)clock64();
}
DEVICE void end_marks(u64 barrier) {
  if (block() == 0 && thread() == 0)
    for (u32 i = 0; i < 144; i++) ((u32*)barrier)[15000 + i] = (&shared().marks[0][0])[i];
}
DEVICE void mark_kind(const Instruction& I) {
  if (thread() == 0)
    shared().kind = I.op == ATTEND_SPLIT ? 4 : I.op != TERNARY && I.op != GROUPED ? 5 : I.ending == STORE ? 0 : I.ending == GATE ? 2 : I.width == I.m[0].out_stride || I.width < 3000 ? 1 : 3;
}
#else
DEVICE void note(u64, u32) {}
DEVICE void begin_marks() {}
DEVICE void end_marks(u64) {}
DEVICE void mark_kind(const Instruction&) {}
#endif

/** The list's instructions one after the other, a barrier of the grid between two. */
template <class Run> DEVICE void run_list(u64 list, u32 n, u32 base, const Input& in, u64 barrier, const Run& run_instruction) {
  u32* const count = (u32*)barrier;
  know_row(in);
  ask_instruction(list, n, 0);
  ask_instruction(list, n, 1);
  copies_asked();
  copies_there<0>();
  begin_marks();
  sync();
  ROLLED for (u32 i = 0; i < n; i++) {
    // On its way while this one runs; into the place of the one before.
    ask_instruction(list, n, i + 2);
    mark(20);
    mark_kind(held(i));
    const Gate gate{count, base + i * blocks(), (i + 1) % 3 | (i == 0 ? Gate::FIRST : 0) | (i + 1 == n ? Gate::LAST : 0)};
    const Told told = run_instruction(held(i), in, i, gate);
    copies_asked();
    copies_there<0>();
    mark(15);
    if (told == UNTOLD) sync();
    else if (told == OTHERS) meet<END>(THREADS);
    mark(16);
    const u32 tid = thread_anew();
    if (told == UNTOLD && tid >= SPEAKER) gate.done(tid == SPEAKER);
    if (tid / 32 == ASKER / 32) {
      meet<TOLD>(64);
      before_bulk();
    }
    mark(17);
    note(barrier, i);
  }
  end_marks(barrier);
}

/** `base`: the barrier's count before this launch; it grows by the grid at every instruction but the last. */
KERNEL bitnet_step(u64 list, u32 n, u32 base, u64 input, u64 barrier) {
  run_list(list, n, base, *(const Input*)input, barrier, [](const Instruction& I, const Input& in, u32, const Gate& gate) { return run(I, in, gate); });
}

/** The same for steps of one row. `input`: 0 where it is `given`. `tag`: the first of n numbers that no launch before has had. */
KERNEL bitnet_one(GIVEN InlineInput given, u64 list, u32 n, u32 base, u64 input, u64 barrier, u32 tag) {
  run_list(list, n, base, *(const Input*)(input ? (const void*)input : &given), barrier, [tag](const Instruction& I, const Input& in, u32 i, const Gate& gate) { return run_one<TERNARIES>(I, in, tag + i, gate); });
}
KERNEL bitnet_one_grouped(GIVEN InlineInput given, u64 list, u32 n, u32 base, u64 input, u64 barrier, u32 tag) {
  run_list(list, n, base, *(const Input*)(input ? (const void*)input : &given), barrier, [tag](const Instruction& I, const Input& in, u32 i, const Gate& gate) { return run_one<GROUPS>(I, in, tag + i, gate); });
}
KERNEL bitnet_one_any(GIVEN InlineInput given, u64 list, u32 n, u32 base, u64 input, u64 barrier, u32 tag) {
  run_list(list, n, base, *(const Input*)(input ? (const void*)input : &given), barrier, [tag](const Instruction& I, const Input& in, u32 i, const Gate& gate) { return run_one<TERNARIES | GROUPS | FLOATS>(I, in, tag + i, gate); });
}

/**
 * The instruction of a launch of its own, which may have begun while the one before still runs, as the next one may from here on:
 * device.cuh. Each of these kernels waits, also where a block has nothing to do: the kernel behind it relies on that.
 */
DEVICE const Instruction& alone(const Instruction& given) {
  let_next_begin();
  for (u32 i = thread(); i < INSTRUCTION_BYTES / 8; i += THREADS) ((u64*)shared().ring[0])[i] = ((const u64*)&given)[i];
  sync();
  return held(0);
}

#ifdef BITNET_PROFILE
/** Nanoseconds, behind the barrier: when the last block of instruction `index` began (0) and ended (1). */
DEVICE void tell_time(u64 barrier, u32 index, u32 what) {
  if (what) sync();
  u64 now;
  asm volatile("mov.u64 %0,%%globaltimer;" : "=l"(now));
  if (thread() == 0) atomicMax((unsigned long long*)barrier + 8 + 2 * index + what, (unsigned long long)now);
}
#else
DEVICE void tell_time(u64, u32, u32) {}
#endif

/** `work`: with the instruction; waits for the kernel before. */
template <class Work> DEVICE void run_alone(const Instruction& given, u64 barrier, u32 index, const Work& work) {
  tell_time(barrier, index, 0);
  work(alone(given));
  tell_time(barrier, index, 1);
}

KERNEL bitnet_phase(GIVEN Instruction given, u64 input, u64 barrier, u32 index) {
  const Input& in = *(const Input*)input;
  know_row(in);
  run_alone(given, barrier, index, [&](const Instruction& I) {
    wait_for_earlier();
    run(I, in, Gate{nullptr, 0, 0});
  });
}
KERNEL bitnet_rows(GIVEN Instruction given, u64, u64 barrier, u32 index) {
  run_alone(given, barrier, index, [](const Instruction& I) { run_all_rows(I); });
}
KERNEL bitnet_some(GIVEN Instruction given, u64, u64 barrier, u32 index) {
  run_alone(given, barrier, index, [](const Instruction& I) {
    ternary_some_ahead(I);
    wait_for_earlier();
    ternary_some(I);
  });
}
TILES_KERNEL bitnet_tiles(GIVEN Instruction given, u64, u64 barrier, u32 index) {
  run_alone(given, barrier, index, [](const Instruction& I) { ternary_tiles(I); });
}
KERNEL bitnet_head(GIVEN Instruction given, u64, u64 barrier, u32 index) {
  run_alone(given, barrier, index, [](const Instruction& I) { int8_of_rows(I); });
}
KERNEL bitnet_ready(GIVEN Instruction given, u64 input, u64 barrier, u32 index) {
  run_alone(given, barrier, index, [input](const Instruction& I) { ready(I, *(const Input*)input); });
}
KERNEL_OF_256 bitnet_attend_rows(GIVEN Instruction given, u64 input, u64 barrier, u32 index) {
  run_alone(given, barrier, index, [input](const Instruction& I) { attend_rows(I, *(const Input*)input); });
}
KERNEL bitnet_attend_batch(GIVEN Instruction given, u64 input, u64 barrier, u32 index) {
  run_alone(given, barrier, index, [input](const Instruction& I) { attend_batch(I, *(const Input*)input); });
}
