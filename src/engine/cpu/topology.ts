// How the processors that this process may use are grouped: which share a last-level cache (a core complex, a socket) and
// which a memory node. Linux tells, in files; virtual machines and containers often do not.
//
// Sources: Linux, Documentation/ABI/stable/sysfs-devices-system-cpu and -node; Documentation/filesystems/proc.rst.

import { readFileSync } from 'node:fs';

export type Topology = {
  /** `allowedProcessors`. */
  readonly processors: readonly number[];
  /** Those of them that share a last-level cache, by their first; empty where the system does not tell of all. */
  readonly caches: readonly (readonly number[])[];
  /** Those of a memory node, by node; empty where the system does not tell of all. */
  readonly nodes: readonly (readonly number[])[];
};

/** Text of a file, undefined where there is none. */
export type ReadText = (path: string) => string | undefined;

/** Numbers of a list are below it: Linux has 8,192 processors at most. */
const MOST_PROCESSORS = 1 << 13;
/** Of a processor; real ones have four or five caches. */
const MOST_CACHES = 16;

const CPU = '/sys/devices/system/cpu';
const NODE = '/sys/devices/system/node';

/** Numbers of the processors of the affinity mask, which a cpuset narrows as well; undefined where the system does not tell. */
export function allowedProcessors(read: ReadText = readText): readonly number[] | undefined {
  const allowed = numbersIn(/^Cpus_allowed_list:(.*)$/m.exec(read('/proc/self/status') ?? '')?.[1] ?? '');
  // The mask may name processors that the machine could have and has not.
  const online = new Set(numbersIn(read(`${CPU}/online`) ?? ''));
  const processors = allowed?.filter((processor) => online.size === 0 || online.has(processor)) ?? [];
  return processors.length === 0 ? undefined : processors;
}

/** Undefined where the system does not say which processors may be used. */
export function readTopology(read: ReadText = readText): Topology | undefined {
  const processors = allowedProcessors(read);
  if (processors === undefined) return undefined;
  return { processors, caches: lastCaches(processors, read), nodes: memoryNodes(processors, read) };
}

/** How many processors of the machine run; undefined where the system does not tell. */
export function onlineProcessors(read: ReadText = readText): number | undefined {
  return numbersIn(read(`${CPU}/online`) ?? '')?.length || undefined;
}

/**
 * Numbers of threads that fill whole caches or nodes, up to `most`: of 2 caches of 8, 8 and 16. The largest groups first,
 * which is how a system that spreads its threads leaves the fewest groups half full.
 */
export function fullGroups(topology: Topology | undefined, most: number): number[] {
  const found = new Set<number>();
  for (const groups of [topology?.caches ?? [], topology?.nodes ?? []]) {
    let threads = 0;
    for (const size of groups.map((group) => group.length).sort((a, b) => b - a)) {
      threads += size;
      if (threads <= most) found.add(threads);
    }
  }
  return [...found].sort((a, b) => a - b);
}

function lastCaches(processors: readonly number[], read: ReadText): readonly (readonly number[])[] {
  const groups: number[][] = [];
  const seen = new Set<number>();
  for (const processor of processors) {
    if (seen.has(processor)) continue;
    const sharing = sharersOfLast(processor, read);
    if (sharing === undefined) return [];
    const group = processors.filter((other) => sharing.has(other) && !seen.has(other));
    for (const other of group) seen.add(other);
    groups.push(group);
  }
  return groups;
}

/** Those with which a processor shares its cache of the highest level, itself among them. */
function sharersOfLast(processor: number, read: ReadText): ReadonlySet<number> | undefined {
  let last = 0;
  let sharing: ReadonlySet<number> | undefined;
  for (let i = 0; i < MOST_CACHES; i += 1) {
    const folder = `${CPU}/cpu${processor}/cache/index${i}`;
    const level = Number(read(`${folder}/level`)?.trim());
    // The numbers of caches have no gaps.
    if (!Number.isInteger(level)) break;
    if (level <= last) continue;
    const list = numbersIn(read(`${folder}/shared_cpu_list`) ?? '');
    if (list?.includes(processor) !== true) continue;
    last = level;
    sharing = new Set(list);
  }
  return sharing;
}

function memoryNodes(processors: readonly number[], read: ReadText): readonly (readonly number[])[] {
  const groups: number[][] = [];
  let found = 0;
  for (const node of numbersIn(read(`${NODE}/online`) ?? '') ?? []) {
    // Nodes of memory alone have none.
    const list = new Set(numbersIn(read(`${NODE}/node${node}/cpulist`) ?? ''));
    const group = processors.filter((processor) => list.has(processor));
    found += group.length;
    if (group.length > 0) groups.push(group);
  }
  return found === processors.length ? groups : [];
}

/** "0-3,8" as numbers, ascending; undefined for what is no such list, none for an empty one. */
export function numbersIn(list: string): number[] | undefined {
  const numbers = new Set<number>();
  for (const part of list.trim().split(',')) {
    if (part.trim() === '') continue;
    const [, from, to = from] = /^\s*(\d{1,5})(?:-(\d{1,5}))?\s*$/.exec(part) ?? [];
    if (from === undefined || Number(to) >= MOST_PROCESSORS || Number(to) < Number(from)) return undefined;
    for (let n = Number(from); n <= Number(to); n += 1) numbers.add(n);
  }
  return [...numbers].sort((a, b) => a - b);
}

export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
