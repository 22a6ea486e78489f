// Faults in the kernels' text that a self-test or a comparison has to find. All are compiled into one driver, each behind a number
// that FAKE_CUDA_FAULT turns on: a driver for every fault would take a compiler longer than all their tests.

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Fault, plantFault } from '../kernels/plant-fault.ts';
import { buildDriver, KERNELS, withSettings } from './fake-driver.ts';

/** In files of kernels/cuda. */
const FAULTS = {
  'a wrong field of a word': ['products.cuh', 'return 0x03030303u << (2 * «f»);', 'f ^ 1'],
  'a sum of something else': ['rows.cuh', '«s = s + v.x * v.x;»', 's = s + v.x * v.y;'],
  'a missing barrier': ['products.cuh', '  mark(8);\n  «sync();»\n', ''],
  'a maximum for each score': ['attention.cuh', '= «block_max(score)»;', 'score + 0.0f * block_max(score)'],
  'the code sum forgotten': ['products.cuh', ' - «code_sum») * factor', '0'],
  'a lane left out': ['attention_rows.cuh', 'sum[k / 4][k % 4] = «four_lanes[k / 4][k % 4]» + sum', '0.0f'],
  'the code sum of some rows forgotten': ['products_many.cuh', ' - «of.code_sum») * divide(scale, of.scale)', '0'],
  'codes that begin at 0': ['products.cuh', '(2 * (in >> 4)) & 3) - «1») * code;', '0'],

  'sums that stay where they are': ['hybrid.cuh', '«of_a = shuffle_down(of_a, 1);»', ''],
  'gates of the row before': [
    'hybrid.cuh',
    'g = gates[DELTA_GATES + «(t + 1)» % DELTA_GATES];\n      const Floats',
    't',
  ],
  'an output of the old state': ['hybrid.cuh', '«o = o + updated * qq;»', 'o = o + s * qq;'],
  'a copy that is read as it is written': ['hybrid.cuh', '«r.copy» * I.counters', '(1 - r.copy)'],
  'states where they were': ['hybrid.cuh', '«state[32 * i] = updated;»', ''],
  'heads in the other order': ['hybrid.cuh', '«I.type» ? h / (I.heads', '!I.type'],
  'signs behind the rotation': ['hybrid.cuh', '* «sign[l]» : 0.0f', '1.0f'],
  'the last of equals': ['hybrid.cuh', '«~warp_max(best == largest ? ~at : 0)»', 'warp_max(best == largest ? at : 0)'],
  'shares of the chosen alone': ['hybrid.cuh', 'sum + «divide(e[chosen[k]], total)»', 'e[chosen[k]]'],
  'a choice of a tile too few': ['hybrid.cuh', 'if (2 * piece + «e» < count) {', 'e + 1'],
  'one scale for two rows': ['hybrid.cuh', '* «scale[f][1]»;', 'scale[f][0]'],
  'the low plane alone': ['hybrid.cuh', '«half» * plane + k * 32', '1'],

  'rows that do not wait': ['rows_many.cuh', '  «wait_for_earlier();»\n  for (u32 from', ''],
  'products that do not wait': ['kernels.cu', '«wait_for_earlier();»\n    ternary_some(I)', ''],
  'attention that does not wait': ['attention_rows.cuh', 'if (first) «wait_for_earlier();»\n  if (!works)', ''],
  'a head that does not wait': ['products_many.cuh', 'if (t0 == 0) «wait_for_earlier();»', ''],
  'the sums of the first block alone': ['attention_rows.cuh', 'out[k] + sums[«f»][all + k * ALL];', '0'],
  'exponentials of the first four warps only': ['attention_rows.cuh', 'total = total + totals[«f»][all % H];', '0'],
  'the largest of the first four warps only': ['attention_rows.cuh', 'f < «G»; f++) {\n        UNROLL for (u32 w', '1'],

  'half of the columns': ['products_many.cuh', 'put([](i32& at, i32 v) { «at += v;» });', 'at = v;'],
  'products that nobody waits for': ['products_many.cuh', '    «mma_done<0>();»\n    copies_there', ''],
  'queries that are not turned': ['attention_rows.cuh', 'I.rotary ? «D / 2» : 0;', '0'],
  'keys that nobody waits for': [
    'attention_rows.cuh',
    'if (BULK) «await_bulk(&mine.arrivals[slot_of(p)], (base + p) / PLACES & 1);»',
    '',
  ],
  'scores before all are there': ['attention_rows.cuh', '  «await_bulk(arrival, before.tiles & 1);»', ''],

  'only its own largest score': [
    'attend-split.cuh',
    'm = larger(m, lifted(«receive(all + c, tag)»));\n      sync',
    'receive(all + 2 * p.run, tag)',
  ],
  'scores of the first warp alone': ['attend-split.cuh', 's.largest[2 * n * h + «lane»]);', '0'],
  'the largest before the norm': ['one-row.cuh', 'u32 most = magnitude(«(one * r) * its_weight»);', 'one * its_weight'],
  'weights that nobody waits for': [
    'products.cuh',
    'if (bulk_copies()) «await_bulk(&s.arrivals[1], asked / WEIGHTS_ASKED & 1);»',
    '',
  ],
  'a first piece that nobody waits for': [
    'one-row.cuh',
    'else if (tid == ASKER) «await_bulk(&s.arrivals[PIECES_ARRIVE], asked >> PIECES_ARRIVE & 1);»',
    '',
  ],
  'later pieces that nobody waits for': [
    'one-products.cuh',
    'if (bulk_copies()) «await_bulk(&s.arrivals[PIECES_ARRIVE + place], parity >> place & 1);»',
    '',
  ],
  'copies of pieces that nobody waits for': [
    'one-products.cuh',
    'if (more && !bulk_copies() && places > 1) «copies_there_but(places - 2);»',
    '',
  ],
  'groups from the last': ['one-products.cuh', 'total[0] = total[0] + a[«i»];', '15 - i'],
  'tiles from the highest': ['attend-split.cuh', 'out = out + values[«k»];', 'PACKETS - 1 - k'],
} as const satisfies Record<string, Fault>;

export type FaultName = keyof typeof FAULTS;
const NAMES = Object.keys(FAULTS) as FaultName[];

/** The driver with all of them, turned off. */
export function driverWithFaults(): string {
  const kernels = mkdtempSync(join(tmpdir(), 'cuda-'));
  try {
    cpSync(KERNELS, kernels, { recursive: true, filter: (path) => !path.endsWith('.ptx') });
    NAMES.forEach((name, i) => {
      const path = join(kernels, FAULTS[name][0]);
      writeFileSync(path, plantFault(readFileSync(path, 'utf8'), i + 1, FAULTS[name]));
    });
    return buildDriver(kernels);
  } finally {
    rmSync(kernels, { recursive: true });
  }
}

/** Runs `work` while the kernels of `driverWithFaults` have this fault. */
export const withFault = <T>(name: FaultName, work: () => Promise<T> | T): Promise<T> =>
  withSettings({ FAKE_CUDA_FAULT: String(NAMES.indexOf(name) + 1) }, work);
