// How many threads a process may run at once, from files as Linux has them.

import { expect, test } from 'vitest';
import { coreLimits, limitText } from '../../src/engine/cpu/cores.ts';

const limits = (processors: number, files: Readonly<Record<string, string>>) =>
  coreLimits({ processors, read: (path) => files[path] });

test('no control groups: the processors of the affinity mask', () => {
  expect(limits(6, {})).toEqual({ processors: 6, quota: undefined, usable: 6 });
});

test('version 2: the least of a group and those above it', () => {
  const files = {
    '/proc/self/cgroup': '0::/user.slice/job\n',
    '/sys/fs/cgroup/cpu.max': 'max 100000\n',
    '/sys/fs/cgroup/user.slice/cpu.max': '300000 100000\n',
    '/sys/fs/cgroup/user.slice/job/cpu.max': '800000 100000\n',
  };
  expect(limits(16, files)).toEqual({ processors: 16, quota: 3, usable: 3 });
  expect(limits(2, files)).toMatchObject({ usable: 2 });
});

test('inside a container the path is the host’s, and the limit lies at the root', () => {
  const files = { '/proc/self/cgroup': '0::/docker/0123\n', '/sys/fs/cgroup/cpu.max': '150000 100000\n' };
  expect(limits(8, files)).toEqual({ processors: 8, quota: 1.5, usable: 2 });
});

test('version 1: the controller called cpu, also beside another', () => {
  const files = {
    '/proc/self/cgroup': '5:memory:/a\n4:cpu,cpuacct:/a\n1:name=systemd:/a\n',
    '/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us': '50000\n',
    '/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us': '100000\n',
    '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '-1\n',
    '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000\n',
  };
  expect(limits(8, files)).toEqual({ processors: 8, quota: 0.5, usable: 1 });
});

test.each([
  ['nothing in them', { '/proc/self/cgroup': '' }],
  ['no limit', { '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/cpu.max': 'max 100000\n' }],
  ['damaged', { '/proc/self/cgroup': '0::/\nx\n', '/sys/fs/cgroup/cpu.max': 'a b\n' }],
  ['a period of 0', { '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/cpu.max': '100 0\n' }],
])('files with %s limit nothing', (_, files) => {
  expect(limits(4, files as Readonly<Record<string, string>>)).toEqual({ processors: 4, quota: undefined, usable: 4 });
});

test('what limits is told', () => {
  const quota = {
    '/proc/self/cgroup': '0::/\n',
    '/sys/fs/cgroup/cpu.max': '150000 100000\n',
    '/sys/devices/system/cpu/online': '0-15\n',
  };
  expect(limitText(limits(8, quota))).toBe('control groups allow the time of 1.5 processors, of 8');
  const mask = { '/sys/devices/system/cpu/online': '0-15\n' };
  expect(limitText(limits(8, mask))).toBe('the affinity mask or a cpuset allows 8 processors, of 16');
  expect(limitText(limits(16, mask))).toBe('the machine has 16 processors');
  // Where the system does not tell how many there are.
  expect(limitText(limits(1, {}))).toBe('the machine has 1 processor');
});

test('the mask is counted from the list that Linux has, with those that run', () => {
  const files: Record<string, string> = {
    '/proc/self/status': 'Cpus_allowed_list:\t0-2,64-127\n',
    '/sys/devices/system/cpu/online': '0-7\n',
  };
  expect(coreLimits({ read: (path) => files[path] })).toEqual({
    online: 8,
    processors: 3,
    quota: undefined,
    usable: 3,
  });
});
