// How many threads can run at once: the processors that this process may be put on, and the time on them that its control
// groups allow. Node knows the first everywhere and the second only in its later versions.

import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { allowedProcessors, onlineProcessors, type ReadText, readText } from './topology.ts';

export type CoreLimits = {
  /** Processors of the machine that run; undefined where the system does not tell. */
  readonly online: number | undefined;
  /** Processors of the affinity mask. */
  readonly processors: number;
  /** Processors' worth of time that control groups allow; undefined without a limit. */
  readonly quota: number | undefined;
  /** What both leave; at least 1. */
  readonly usable: number;
};

export type CoreSources = {
  readonly processors?: number;
  readonly read?: ReadText;
};

/** A quota of 1.5 processors leaves two threads: the system stops both in turn, and one would leave half a processor idle. */
export function coreLimits({ read = readText, ...given }: CoreSources = {}): CoreLimits {
  // What Node counts has a quota in it in some of its versions.
  const processors = given.processors ?? allowedProcessors(read)?.length ?? availableParallelism();
  const quota = cgroupQuota(read);
  const usable = Math.max(1, Math.min(processors, Math.ceil(quota ?? processors)));
  return { online: onlineProcessors(read), processors, quota, usable };
}

/** What keeps threads from being more than `usable`, in words. */
export function limitText({ online, processors, quota, usable }: CoreLimits): string {
  const of = (count: number) => `${count} ${count === 1 ? 'processor' : 'processors'}`;
  if (quota !== undefined && usable < processors)
    return `control groups allow the time of ${of(Number(quota.toFixed(1)))}, of ${processors}`;
  if (online !== undefined && processors < online)
    return `the affinity mask or a cpuset allows ${of(processors)}, of ${online}`;
  return `the machine has ${of(processors)}`;
}

/** The least of the groups that this process is in. Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max. */
function cgroupQuota(read: ReadText): number | undefined {
  const quotas: number[] = [];
  for (const line of read('/proc/self/cgroup')?.split('\n') ?? []) {
    const [, controllers, group] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers === undefined || group === undefined) continue;
    const isV2 = controllers === '';
    if (!isV2 && !controllers.split(',').includes('cpu')) continue;
    const root = isV2 ? '/sys/fs/cgroup' : `/sys/fs/cgroup/${controllers}`;
    const parts = group.split('/').filter(Boolean);
    // Inside a container the path may be the host's: its own group then lies at the root.
    for (let depth = parts.length; depth >= 0; depth -= 1) {
      const folder = join(root, ...parts.slice(0, depth));
      const [limit, period] = isV2
        ? (read(join(folder, 'cpu.max'))?.trim().split(/\s+/) ?? [])
        : [read(join(folder, 'cpu.cfs_quota_us'))?.trim(), read(join(folder, 'cpu.cfs_period_us'))?.trim()];
      const share = Number(limit) / Number(period);
      if (share > 0 && Number.isFinite(share)) quotas.push(share);
    }
  }
  return quotas.length === 0 ? undefined : Math.min(...quotas);
}
