// How many threads can run at once: the processors that this process may be put on, and the time on them that its control
// groups allow. Node knows the first everywhere and the second only in its later versions.

import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';

export type CoreLimits = {
  /** Processors of the affinity mask. */
  readonly processors: number;
  /** Processors' worth of time that control groups allow; undefined without a limit. */
  readonly quota: number | undefined;
  /** What both leave; at least 1. */
  readonly usable: number;
};

export type CoreSources = {
  readonly processors?: number;
  /** Text of a file, undefined where there is none. */
  readonly read?: (path: string) => string | undefined;
};

/** A quota of 1.5 processors leaves two threads: the system stops both in turn, and one would leave half a processor idle. */
export function coreLimits({ processors = availableParallelism(), read = textOf }: CoreSources = {}): CoreLimits {
  const quota = cgroupQuota(read);
  return { processors, quota, usable: Math.max(1, Math.min(processors, Math.ceil(quota ?? processors))) };
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** The least of the groups that this process is in. Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max. */
function cgroupQuota(read: (path: string) => string | undefined): number | undefined {
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
