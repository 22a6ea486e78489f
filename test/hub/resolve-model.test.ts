import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hubCacheFolder, hubHome, isRepoId, isRevision } from '../../src/hub/hub-cache.ts';
import {
  listModels,
  ModelNotFoundError,
  NotAModelError,
  PathNotAllowedError,
  resolveModel,
} from '../../src/hub/resolve-model.ts';
import { packageRoot } from '../../src/package/root.ts';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';
let folder: string;
let env: { HF_HOME: string };

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hub-'));
  env = { HF_HOME: join(folder, 'hf') };
  const repo = join(folder, 'hf/hub/models--org--packed');
  await mkdir(join(repo, 'snapshots', COMMIT), { recursive: true });
  await mkdir(join(repo, 'refs'), { recursive: true });
  await writeFile(join(repo, 'refs/main'), COMMIT);
  await writeFile(join(repo, 'snapshots', COMMIT, 'model.safetensors'), '');
  const ggufs = join(folder, 'hf/hub/models--org--ggufs/snapshots', COMMIT);
  await mkdir(ggufs, { recursive: true });
  await writeFile(join(ggufs, 'a.gguf'), 'GGUF');
  await writeFile(join(ggufs, 'b.gguf'), 'GGUF');
  await mkdir(join(folder, 'inside/one-gguf'), { recursive: true });
  await mkdir(join(folder, 'outside'));
  await writeFile(join(folder, 'inside/one-gguf/m.gguf'), 'GGUF....');
  await writeFile(join(folder, 'inside/bad.gguf'), 'nope');
  await writeFile(join(folder, 'inside/w.safetensors'), '');
  await writeFile(join(folder, 'inside/notes.txt'), 'text');
  await writeFile(join(folder, 'outside/secret.safetensors'), '');
  await symlink(join(folder, 'outside'), join(folder, 'inside/way-out'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('resolveModel', () => {
  test('default is the folder that ships with the package', async () => {
    const model = await resolveModel('default', { env });
    expect(model).toEqual({ kind: 'folder', name: 'default', path: join(packageRoot(), 'models/default') });
  });

  test('folders, files and a folder that holds one .gguf', async () => {
    const inside = join(folder, 'inside');
    expect(await resolveModel(inside, { env })).toMatchObject({ kind: 'folder', path: inside });
    expect(await resolveModel(join(inside, 'w.safetensors'), { env })).toMatchObject({ kind: 'safetensors' });
    const gguf = join(inside, 'one-gguf/m.gguf');
    expect(await resolveModel(gguf, { env })).toMatchObject({ kind: 'gguf', path: gguf });
    expect(await resolveModel(join(inside, 'one-gguf'), { env })).toMatchObject({ kind: 'gguf', path: gguf });
  });

  test('files that are no model say so', async () => {
    await expect(resolveModel(join(folder, 'inside/notes.txt'), { env })).rejects.toThrow(NotAModelError);
    await expect(resolveModel(join(folder, 'inside/bad.gguf'), { env })).rejects.toThrow('does not begin with "GGUF"');
  });

  // Reading what /proc says of no size fails or waits without end.
  test.skipIf(process.platform !== 'linux')('a file of /proc is not read', async () => {
    await expect(resolveModel('/proc/self/mem', { env })).rejects.toThrow('is not a .gguf or .safetensors file');
  });

  test('hub ids, with and without a revision', async () => {
    const path = join(folder, 'hf/hub/models--org--packed/snapshots', COMMIT);
    expect(await resolveModel('org/packed', { env })).toEqual({
      kind: 'folder',
      name: 'org/packed',
      path,
      commit: COMMIT,
    });
    expect(await resolveModel(`org/packed@${COMMIT}`, { env })).toMatchObject({ path });
    await expect(resolveModel('org/packed@v2', { env })).rejects.toThrow('not its revision "v2"');
    await expect(resolveModel('org/absent', { env })).rejects.toThrow('run `bitnet-gf3 pull org/absent` first');
  });

  test('a repository of several .gguf files asks for one of them', async () => {
    await expect(resolveModel('org/ggufs', { env })).rejects.toThrow('org/ggufs/a.gguf, org/ggufs/b.gguf');
    expect(await resolveModel('org/ggufs/b.gguf', { env })).toMatchObject({ kind: 'gguf', commit: COMMIT });
  });

  test('names that are nothing', async () => {
    for (const name of ['', 'a\0b', 'no such model', './absent', '/absent']) {
      await expect(resolveModel(name, { env })).rejects.toThrow(ModelNotFoundError);
    }
  });

  test('allowed roots bound paths, links followed, but not names', async () => {
    const allowedRoots = [join(folder, 'inside')];
    const options = { env, allowedRoots };
    expect(await resolveModel(join(folder, 'inside/w.safetensors'), options)).toMatchObject({ kind: 'safetensors' });
    expect(await resolveModel('default', options)).toMatchObject({ kind: 'folder' });
    expect(await resolveModel('org/packed', options)).toMatchObject({ commit: COMMIT });
    for (const path of [
      join(folder, 'outside/secret.safetensors'),
      join(folder, 'outside/absent.safetensors'),
      join(folder, 'inside/way-out/secret.safetensors'),
      join(folder, 'inside/../outside'),
      'a/../../etc/passwd',
      '/etc/passwd',
      '~/x',
    ]) {
      await expect(resolveModel(path, options), path).rejects.toThrow(PathNotAllowedError);
    }
    await expect(resolveModel(join(folder, 'inside/absent'), options)).rejects.toThrow(ModelNotFoundError);
  });
});

test('listModels names the embedded model and what the cache holds', async () => {
  const names = (await listModels({ env })).map((model) => `${model.source} ${model.kind} ${model.name}`);
  expect(names).toContain('embedded folder default');
  expect(names.filter((name) => name.startsWith('hub'))).toEqual([
    'hub gguf org/ggufs/a.gguf',
    'hub gguf org/ggufs/b.gguf',
    'hub folder org/packed',
  ]);
});

describe('hub cache places', () => {
  test.each([
    [{ HF_HUB_CACHE: '/c', HF_HOME: '/h' }, '/c'],
    [{ HUGGINGFACE_HUB_CACHE: '/old' }, '/old'],
    [{ HF_HOME: '/h' }, '/h/hub'],
    [{ XDG_CACHE_HOME: '/x' }, '/x/huggingface/hub'],
    [{ HF_HOME: '$DATA/hf', DATA: '/d' }, '/d/hf/hub'],
    [{ HF_HUB_CACHE: '$' + '{DATA}/$NONE', DATA: '/d' }, '/d/$NONE'],
    [{ HF_HOME: '', XDG_CACHE_HOME: '/x' }, '/x/huggingface/hub'],
  ])('%j', (variables, want) => {
    expect(hubCacheFolder(variables)).toBe(want);
  });

  test('without variables it is in the home folder', () => {
    expect(hubHome({})).toMatch(/\.cache\/huggingface$/);
  });

  test('ids and revisions that could leave the cache are refused', () => {
    for (const id of ['../x', 'a/b/c', 'a/..', '.a/b', 'a--b/c', 'a/b\0', '/a', ''])
      expect(isRepoId(id), id).toBe(false);
    for (const id of ['microsoft/bitnet-b1.58-2B-4T', 'gpt2', 'a_b/c.d']) expect(isRepoId(id), id).toBe(true);
    for (const revision of ['..', 'a/../b', '/a', 'a//b', '']) expect(isRevision(revision), revision).toBe(false);
    for (const revision of ['main', 'refs/pr/1', COMMIT, 'v1.0']) expect(isRevision(revision), revision).toBe(true);
  });
});

test('a name without end is refused before anything looks for it', async () => {
  const error = await resolveModel('x'.repeat(1e6), { env }).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(ModelNotFoundError);
  expect((error as Error).message).toMatch(/^a text of 1000000 characters is not a model name; a model is/);
  expect((error as Error).message.length).toBeLessThan(300);
});

describe('a folder of .gguf files', () => {
  const folderOf = async (...names: string[]) => {
    const inside = await mkdtemp(join(folder, 'ggufs-'));
    for (const name of names) await writeFile(join(inside, name), 'GGUF');
    return inside;
  };

  test('is its model, whatever lies beside it', async () => {
    const folder = await folderOf('model.gguf', 'mmproj-model-F16.gguf', 'imatrix.gguf');
    expect(await resolveModel(folder)).toMatchObject({ kind: 'gguf', path: join(folder, 'model.gguf') });
  });

  test('is its first part', async () => {
    const folder = await folderOf('m-00002-of-00002.gguf', 'm-00001-of-00002.gguf');
    expect(await resolveModel(folder)).toMatchObject({ kind: 'gguf', path: join(folder, 'm-00001-of-00002.gguf') });
  });

  test('is none where it holds two models, each named once', async () => {
    const folder = await folderOf('a.gguf', 'm-00002-of-00002.gguf', 'm-00001-of-00002.gguf');
    await expect(resolveModel(folder)).rejects.toThrow(
      /several .gguf files .*one of them: [^,]*a.gguf, [^,]*m-00001-of-00002.gguf$/,
    );
  });
});
