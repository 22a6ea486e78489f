// Which processors share caches and memory, from files as Linux has them.

import { expect, test } from 'vitest';
import { fullGroups, numbersIn, readTopology } from '../../src/engine/cpu/topology.ts';

type Files = Record<string, string>;

/** A machine: lists of the processors that share a last cache, and of those of each node. */
function machine({
  allowed,
  online,
  caches,
  nodes,
}: Record<'caches' | 'nodes', string[]> & { allowed: string; online: string }) {
  const files: Files = {
    '/proc/self/status': `Name:\tnode\nCpus_allowed:\tff\nCpus_allowed_list:\t${allowed}\nMems_allowed:\t1\n`,
    '/sys/devices/system/cpu/online': `${online}\n`,
    '/sys/devices/system/node/online': nodes.length === 0 ? '' : `0-${nodes.length - 1}\n`,
  };
  for (const list of caches) {
    for (const processor of numbersIn(list)!) {
      // As x86 has them: data and instructions of level 1, level 2 of a core, level 3 of several.
      for (const [i, [level, shared]] of [
        [1, `${processor}`],
        [1, `${processor}`],
        [2, `${processor}`],
        [3, list],
      ].entries()) {
        const folder = `/sys/devices/system/cpu/cpu${processor}/cache/index${i}`;
        files[`${folder}/level`] = `${level}\n`;
        files[`${folder}/shared_cpu_list`] = `${shared}\n`;
      }
    }
  }
  for (const [node, list] of nodes.entries()) files[`/sys/devices/system/node/node${node}/cpulist`] = `${list}\n`;
  return files;
}

const topologyOf = (files: Files) => readTopology((path) => files[path]);
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

test('two nodes of two core complexes, hardware threads far apart', () => {
  const files = machine({
    allowed: '0-31',
    online: '0-31',
    caches: ['0-3,16-19', '4-7,20-23', '8-11,24-27', '12-15,28-31'],
    nodes: ['0-7,16-23', '8-15,24-31'],
  });
  const topology = topologyOf(files)!;
  expect(topology.processors).toEqual(range(0, 31));
  expect(topology.caches).toEqual([
    [...range(0, 3), ...range(16, 19)],
    [...range(4, 7), ...range(20, 23)],
    [...range(8, 11), ...range(24, 27)],
    [...range(12, 15), ...range(28, 31)],
  ]);
  expect(topology.nodes.map((node) => node.length)).toEqual([16, 16]);
  expect(fullGroups(topology, 32)).toEqual([8, 16, 24, 32]);
  expect(fullGroups(topology, 20)).toEqual([8, 16]);
});

test('the affinity mask leaves parts of groups, and names processors that are not there', () => {
  const files = machine({ allowed: '2-9,40-63', online: '0-11', caches: ['0-5', '6-11'], nodes: ['0-11'] });
  expect(topologyOf(files)).toEqual({
    processors: range(2, 9),
    caches: [range(2, 5), range(6, 9)],
    nodes: [range(2, 9)],
  });
  files['/proc/self/status'] = 'Cpus_allowed_list:\t0-5,11\n';
  const uneven = topologyOf(files)!;
  expect(uneven.caches).toEqual([range(0, 5), [11]]);
  expect(fullGroups(uneven, 7)).toEqual([6, 7]);
});

test('a machine whose last level is the second, and one with a memory node without processors', () => {
  const files = machine({ allowed: '0-3', online: '0-3', caches: [], nodes: ['0-3', ''] });
  for (const processor of range(0, 3)) {
    const folder = `/sys/devices/system/cpu/cpu${processor}/cache`;
    Object.assign(files, {
      // Out of order, as ARM boards have them.
      [`${folder}/index0/level`]: '2\n',
      [`${folder}/index0/shared_cpu_list`]: processor < 2 ? '0-1\n' : '2-3\n',
      [`${folder}/index1/level`]: '1\n',
      [`${folder}/index1/shared_cpu_list`]: `${processor}\n`,
    });
  }
  const topology = topologyOf(files)!;
  expect([topology.caches, topology.nodes]).toEqual([
    [
      [0, 1],
      [2, 3],
    ],
    [[0, 1, 2, 3]],
  ]);
  expect(fullGroups(topology, 4)).toEqual([2, 4]);
});

test.each<[string, Files]>([
  ['nothing at all', {}],
  ['another system’s status', { '/proc/self/status': 'Name:\tnode\n' }],
  ['a list that is none', { '/proc/self/status': 'Cpus_allowed_list:\t0-x\n' }],
  ['more processors than there can be', { '/proc/self/status': 'Cpus_allowed_list:\t0-99999\n' }],
  ['none that run', { '/proc/self/status': 'Cpus_allowed_list:\t4\n', '/sys/devices/system/cpu/online': '0-3\n' }],
])('not known: %s', (_, files) => {
  expect(topologyOf(files)).toBeUndefined();
  expect(fullGroups(topologyOf(files), 8)).toEqual([]);
});

test('a virtual machine tells of no caches, or of some', () => {
  const files = machine({ allowed: '0-3', online: '0-3', caches: ['0-1'], nodes: ['0-1'] });
  expect(topologyOf(files)).toEqual({ processors: [0, 1, 2, 3], caches: [], nodes: [] });
  expect(fullGroups(topologyOf(files), 4)).toEqual([]);
});

test.each<[string, number[] | undefined]>([
  ['0-3,8\n', [0, 1, 2, 3, 8]],
  ['5', [5]],
  ['7, 1-2 ', [1, 2, 7]],
  ['', []],
  ['3-1', undefined],
  ['1-', undefined],
  ['-1', undefined],
  ['0-9000', undefined],
  ['1;2', undefined],
])('the list %j', (list, numbers) => {
  expect(numbersIn(list)).toEqual(numbers);
});
