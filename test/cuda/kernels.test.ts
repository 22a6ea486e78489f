// Which form of the kernels a card gets: its own cubin where the package has it whole and of these sources, else the PTX text.

import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { packCubins, whyCubinsNotCurrent } from '../../scripts/cubins.mjs';
import { createCudaBackend, openKernels } from '../../src/engine/cuda/backend.ts';
import { CUBINS, cubinFolder, findCubin, type KernelSource, packageKernels } from '../../src/engine/cuda/kernels.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { missedLine } from '../../src/engine/select.ts';
import { buildDriver, FAKE_MISSING, fakeAddon, KERNELS, NO_KERNELS, withSettings } from './fake-driver.ts';
import { driverWithFaults, withFault } from './planted-faults.ts';

const home = mkdtempSync(join(tmpdir(), 'cubins-'));
afterAll(() => rmSync(home, { recursive: true }));

/** The emulator's driver takes what begins as an ELF file does; the rest is what neighbors share. */
const cubinOf = (capability: number, start = '\x7fELF') =>
  Buffer.concat([Buffer.from(`${start}sm_${capability} `, 'latin1'), Buffer.alloc(5000, 'as on all cards, ')]);

const CARDS = new Map(CUBINS.map((capability) => [capability as number, cubinOf(capability)]));

let root: string;
let count = 0;

/** A package with the kernels' real sources. */
function makePackage(cubins: ReadonlyMap<number, Uint8Array> = CARDS): string {
  const folder = join(home, `package-${count++}`);
  mkdirSync(folder);
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'bitnet-gf3-mcp', version: '0.1.0' }));
  cpSync(KERNELS, join(folder, 'kernels/cuda'), { recursive: true, filter: (path) => !path.endsWith('.ptx') });
  packCubins(cubins, folder, 'a compiler');
  return folder;
}

const place = (file: string) => join(cubinFolder(root), file);

beforeEach(() => {
  root = makePackage();
});

const reasonFor = (capability: number) => {
  const found = findCubin(capability, root);
  return 'reason' in found ? found.reason : undefined;
};

test.each(CUBINS.map((capability) => [capability]))('%i gets its own', (capability) => {
  const found = findCubin(capability, root);
  expect('bytes' in found && Buffer.compare(found.bytes, CARDS.get(capability)!)).toBe(0);
});

// A minor version between is another machine (8.7, 12.1: no desktop cards), a later major one of the future.
test.each([
  [75, '7.5'],
  [87, '8.7'],
  [88, '8.8'],
  [100, '10.0'],
  [103, '10.3'],
  [110, '11.0'],
  [121, '12.1'],
  [130, '13.0'],
])('%i has none', (capability, told) => {
  expect(reasonFor(capability)).toBe(`no machine code for compute capability ${told} came with the package`);
});

test('those of a generation lie in one file', () => {
  const { cubins, files } = JSON.parse(readFileSync(place('manifest.json'), 'utf8'));
  expect(cubins.map(({ capability, file }: { capability: number; file: string }) => [capability, file])).toEqual([
    [80, 'kernels-8.br'],
    [86, 'kernels-8.br'],
    [89, 'kernels-8.br'],
    [90, 'kernels-9.br'],
    [120, 'kernels-12.br'],
  ]);
  expect(Object.keys(files)).toEqual(['kernels-8.br', 'kernels-9.br', 'kernels-12.br']);
});

test('a package without them says so', () => {
  rmSync(cubinFolder(root), { recursive: true });
  expect(reasonFor(90)).toBe('no machine code came with the package');
  expect(whyCubinsNotCurrent(root)).toBe('cuda is not built');
});

describe('damage is found before the driver sees it', () => {
  test('in any byte of a file', () => {
    const whole = readFileSync(place('kernels-9.br'));
    for (let at = 0; at < whole.length; at += 1) {
      const damaged = Buffer.from(whole);
      damaged[at]! ^= 0x10;
      writeFileSync(place('kernels-9.br'), damaged);
      // Bits that no symbol uses change nothing: then the cubin is the one that was packed.
      const found = findCubin(90, root);
      if ('bytes' in found) expect(Buffer.compare(found.bytes, CARDS.get(90)!)).toBe(0);
      else expect(found.reason).toMatch(/kernels-9\.br (cannot be unpacked: |is not the file that was packed)/);
    }
    expect(reasonFor(80)).toBeUndefined();
  });

  test.each([
    ['cut', () => truncateSync(place('kernels-8.br'), 20), /kernels-8\.br cannot be unpacked: /],
    ['empty', () => writeFileSync(place('kernels-8.br'), ''), /kernels-8\.br cannot be unpacked: /],
    ['missing', () => rmSync(place('kernels-8.br')), /kernels-8\.br cannot be unpacked: ENOENT/],
    ['another', () => cpSync(place('kernels-9.br'), place('kernels-8.br')), /kernels-8\.br is not the file/],
    ['a cut manifest', () => truncateSync(place('manifest.json'), 100), /manifest\.json is damaged/],
    ['an empty manifest', () => writeFileSync(place('manifest.json'), '{}'), /manifest\.json is damaged/],
    ['no object', () => writeFileSync(place('manifest.json'), 'null'), /manifest\.json is damaged/],
  ])('%s', (_, damage, told) => {
    damage();
    expect(reasonFor(86)).toMatch(told);
    expect(whyCubinsNotCurrent(root)).toMatch(/^cuda/);
  });

  test('a cubin that is another than the manifest says', () => {
    const text = readFileSync(place('manifest.json'), 'utf8');
    const manifest = JSON.parse(text);
    manifest.cubins[1].offset = 0;
    writeFileSync(place('manifest.json'), JSON.stringify(manifest));
    expect(reasonFor(86)).toMatch(/is not the file that was packed: the sha256 of its cubin differs/);
    expect(reasonFor(80)).toBeUndefined();
  });
});

test('cubins of other sources are not taken', () => {
  const path = join(root, 'kernels/cuda/rows.cuh');
  writeFileSync(path, `${readFileSync(path, 'utf8')}\n`);
  expect(reasonFor(90)).toMatch(/prebuilds\/cuda was made of other sources$/);
});

test('where no sources came along, those of another version are not taken', () => {
  const sources = join(root, 'kernels/cuda');
  rmSync(sources, { recursive: true });
  mkdirSync(sources);
  cpSync(join(KERNELS, 'kernels.ptx'), join(sources, 'kernels.ptx'));
  expect(reasonFor(90)).toBeUndefined();
  writeFileSync(join(root, 'package.json'), JSON.stringify({ name: 'bitnet-gf3-mcp', version: '0.2.0' }));
  expect(reasonFor(90)).toMatch(/prebuilds\/cuda is of version 0\.1\.0, the package 0\.2\.0$/);
});

test('the release takes all of them, whole and of these sources and flags, or refuses', () => {
  expect(whyCubinsNotCurrent(root)).toBeUndefined();
  const change = (edit: (manifest: Record<string, unknown>) => void) => {
    root = makePackage();
    const manifest = JSON.parse(readFileSync(place('manifest.json'), 'utf8'));
    edit(manifest);
    writeFileSync(place('manifest.json'), JSON.stringify(manifest));
    return whyCubinsNotCurrent(root);
  };
  expect(change((manifest) => Object.assign(manifest, { version: '0.0.1' }))).toBe('cuda is of version 0.0.1');
  expect(change((manifest) => Object.assign(manifest, { flags: ['-O3'] }))).toBe('cuda was made with other flags');
  expect(change((manifest) => Object.assign(manifest, { sources: 'x' }))).toBe('cuda is of other sources');
  root = makePackage(new Map([[90, cubinOf(90)]]));
  expect(whyCubinsNotCurrent(root)).toBe('cuda: no machine code for compute capability 8.0 came with the package');
  root = makePackage();
  writeFileSync(place('kernels-12.br'), 'x');
  expect(whyCubinsNotCurrent(root)).toBe('cuda/kernels-12.br is not what its manifest says');
});

test('the PTX text of this package is there for all others', () => {
  expect(Buffer.compare(packageKernels.ptx(), readFileSync(join(KERNELS, 'kernels.ptx')))).toBe(0);
});

describe.skipIf(FAKE_MISSING !== undefined)('on the emulated driver', () => {
  const open = (settings: Record<string, string>, kernels: KernelSource) =>
    withSettings(settings, async () => {
      const addon = fakeAddon();
      const opened = await openKernels(addon, addon.probe(buildDriver()), kernels);
      return 'detail' in opened ? opened.detail : opened.reason;
    });
  const kernels = (cubins = CARDS): KernelSource => {
    root = makePackage(cubins);
    return { cubin: (capability) => findCubin(capability, root), ptx: NO_KERNELS.ptx };
  };
  const noPtx = () => {
    throw new Error('the PTX text was asked for');
  };

  test('a card gets its cubin, and the PTX text is not even read', async () => {
    expect(await open({ FAKE_CUDA_CAPABILITY: '89' }, { ...kernels(), ptx: noPtx })).toBe(
      'kernels: the cubin for compute capability 8.9',
    );
  });

  test('another gets the PTX text, with a line that says why and how long it takes', async () => {
    expect(await open({ FAKE_CUDA_CAPABILITY: '87' }, kernels())).toBe(
      'kernels: PTX, which the driver compiles, half a minute or more the first time (no machine code for compute capability 8.7 came with the package)',
    );
  });

  test('so it does where the driver refuses the cubin', async () => {
    const strange = new Map([[90, cubinOf(90, 'not ELF')]]);
    expect(await open({ FAKE_CUDA_CAPABILITY: '90' }, kernels(strange))).toBe(
      'kernels: PTX, which the driver compiles, half a minute or more the first time (the driver refuses the cubin: cuModuleLoadData: CUDA_ERROR)',
    );
  });

  test('the backend tells it once the self-test is done', { timeout: 300_000 }, async () => {
    const loadAddon = async () => ({ addon: fakeAddon() });
    const backend = createCudaBackend({ loadAddon, library: buildDriver(), kernels: { ...kernels(), ptx: noPtx } });
    expect(await backend.unavailable()).toBeUndefined();
    expect(await backend.detail!()).toBe('kernels: the cubin for compute capability 9.0');
    const broken = createCudaBackend({ loadAddon, library: '/nowhere/libcuda.so.1', kernels: NO_KERNELS });
    expect(await broken.detail!()).toBeUndefined();
  });

  test.each([
    [
      'machine code alone',
      /^kernels: PTX, .* the first time \(the cubin is not used: in its self-test .* bit for bit\)$/,
    ],
    ['both', /^CUDA on .* is not used: in its self-test .* bit for bit$/],
  ])('kernels that fail the self-test are not used: %s', { timeout: 300_000 }, (faulty, wanted) =>
    withSettings(faulty === 'both' ? {} : { FAKE_CUDA_FAULTY: '1' }, () =>
      withFault('the code sum of some rows forgotten', async () => {
        const backend = createCudaBackend({
          loadAddon: async () => ({ addon: fakeAddon() }),
          library: driverWithFaults(),
          kernels: kernels(),
        });
        const reason = await backend.unavailable();
        expect(reason ?? (await backend.detail!())).toMatch(wanted);
        expect(reason === undefined).toBe(faulty !== 'both');
      }),
    ),
  );

  test('while it compiles, who cannot wait is told why', async () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    const slow = { ...fakeAddon(), start: () => new Promise<void>(() => {}) };
    const backend = createCudaBackend({
      loadAddon: async () => ({ addon: slow }),
      library: buildDriver(),
      kernels: NO_KERNELS,
    });
    const told = backend.unavailable({ now: true });
    await vi.advanceTimersByTimeAsync(3000);
    const reason = await told;
    expect(reason).toBe(
      'the driver compiles the CUDA kernels, half a minute or more the first time (the kernels are compiled into the driver); later starts need not wait',
    );
    // A start tells it; what is wrong with a card is for `doctor`.
    const selection = { backend: jsBackend, reasons: [{ backend: 'cuda', reason: reason! }] } as const;
    expect(missedLine(selection)).toBe(`using the js backend: ${reason}`);
    const old = { backend: 'cuda', reason: 'the NVIDIA driver finds no card' } as const;
    expect(missedLine({ backend: jsBackend, reasons: [old] })).toBeUndefined();
  });
});
