// Downloads a model into the hub cache, in the layout of Hugging Face's own tools: what they fetched we reuse, and the
// other way round. A file becomes visible only when its bytes have the announced hash; an interrupted download goes on
// where it stopped.

import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, mkdir, open, rename, rm, stat, statfs, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { ArgumentError, CancelledError } from '../errors.ts';
import { type Environment, hubCacheFolder, isRepoId, isRevision, repoFolder } from './hub-cache.ts';
import { HubClient } from './hub-client.ts';
import { DiskSpaceError, HubConnectionError, HubContentError, HubSelectionError } from './hub-errors.ts';

/** More files than any model repository we know of (a few hundred). */
const MAX_FILES = 10_000;

export type PullProgress = {
  readonly file: string;
  /** Bytes of this file, and of all files, that are there. */
  readonly fileBytes: number;
  readonly fileTotal: number;
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly filesDone: number;
  readonly files: number;
};

export type PullOptions = {
  /** A branch, tag or commit; default `main`. */
  readonly revision?: string;
  /** Names to download; default: weights, configs and tokenizer as `selectFiles` tells. */
  readonly files?: readonly string[];
  readonly env?: Environment;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: PullProgress) => void;
  /** Base of the growing pause between tries; tests shorten it. */
  readonly retryDelayMs?: number;
};

export type PullResult = {
  readonly repo: string;
  readonly commit: string;
  /** The snapshot folder. */
  readonly path: string;
  readonly files: readonly string[];
  /** Bytes that came over the network this time. */
  readonly downloadedBytes: number;
};

type RemoteFile = {
  readonly name: string;
  readonly size: number;
  /** Name of its blob: the SHA-256 of a large file, the git SHA-1 of another. */
  readonly etag: string;
};

export async function pull(repo: string, options: PullOptions = {}): Promise<PullResult> {
  const { revision = 'main', env = process.env, signal } = options;
  if (!isRepoId(repo)) {
    throw new ArgumentError({
      what: `${JSON.stringify(repo)} is not the id of a repository`,
      fix: 'write it as ORG/NAME',
    });
  }
  if (!isRevision(revision)) {
    throw new ArgumentError({
      what: `${JSON.stringify(revision)} is not a revision`,
      fix: 'name a branch, tag or commit',
    });
  }
  if (env.HF_HUB_OFFLINE === '1' || env.HF_HUB_OFFLINE?.toLowerCase() === 'true') {
    throw new HubConnectionError({ what: 'HF_HUB_OFFLINE forbids downloads', fix: 'unset it, or use a cached model' });
  }
  const client = new HubClient({
    env,
    ...(signal === undefined ? {} : { signal }),
    ...(options.retryDelayMs === undefined ? {} : { retryDelayMs: options.retryDelayMs }),
  });
  const { commit, all } = await listFiles(client, repo, revision);
  const files = selectFiles(repo, all, options.files);
  const folder = repoFolder(hubCacheFolder(env), repo);
  const snapshot = join(folder, 'snapshots', commit);
  await mkdir(join(folder, 'blobs'), { recursive: true });
  await mkdir(snapshot, { recursive: true });
  await checkDiskSpace(folder, files);

  const totalBytes = files.reduce((sum, file) => sum + file.size, 0);
  let doneBytes = 0;
  let downloadedBytes = 0;
  for (const [filesDone, file] of files.entries()) {
    const report = (fileBytes: number): void =>
      options.onProgress?.({
        file: file.name,
        fileBytes,
        fileTotal: file.size,
        doneBytes: doneBytes + fileBytes,
        totalBytes,
        filesDone,
        files: files.length,
      });
    const blob = join(folder, 'blobs', file.etag);
    downloadedBytes += await fetchBlob(client, { repo, commit, file, blob, report });
    await link(blob, join(snapshot, file.name));
    report(file.size);
    doneBytes += file.size;
  }
  // Last: until now nobody could take the snapshot for a complete one.
  if (revision !== commit) {
    const ref = join(folder, 'refs', revision);
    await mkdir(dirname(ref), { recursive: true });
    await writeFile(`${ref}.tmp`, commit);
    await rename(`${ref}.tmp`, ref);
  }
  return { repo, commit, path: snapshot, files: files.map(({ name }) => name), downloadedBytes };
}

async function listFiles(
  client: HubClient,
  repo: string,
  revision: string,
): Promise<{ commit: string; all: RemoteFile[] }> {
  const path = `/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const answer = await client.json(path, repo);
  const where = `${client.endpoint}${path}`;
  const bad = (what: string): HubContentError =>
    new HubContentError({ what: `the Hub's list of files ${what}`, where, fix: 'check HF_ENDPOINT' });
  const { sha, siblings } = (answer ?? {}) as { sha?: unknown; siblings?: unknown };
  if (typeof sha !== 'string' || !/^[0-9a-f]{40}$/.test(sha)) throw bad('names no commit');
  if (!Array.isArray(siblings) || siblings.length > MAX_FILES) throw bad('is missing or too long');
  const all = siblings.map((sibling: unknown): RemoteFile => {
    const { rfilename, size, blobId, lfs } = (sibling ?? {}) as Record<string, unknown>;
    if (typeof rfilename !== 'string' || !isSafeName(rfilename)) {
      throw bad(`holds the name ${JSON.stringify(rfilename)}, which could lead out of the cache`);
    }
    const large = (lfs ?? undefined) as { sha256?: unknown; size?: unknown } | undefined;
    const etag = large?.sha256 ?? blobId;
    const bytes = large?.size ?? size;
    if (typeof etag !== 'string' || !/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(etag))
      throw bad(`gives no hash of ${rfilename}`);
    if (typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < 0)
      throw bad(`gives no size of ${rfilename}`);
    return { name: rfilename, size: bytes, etag };
  });
  return { commit: sha, all };
}

/** A relative path of plain parts. */
function isSafeName(name: string): boolean {
  if (name === '' || name.length > 1024 || /[\\:\0]/.test(name)) return false;
  return name.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
}

const COMPANIONS =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|preprocessor_config|chat_template)\.(json|txt)$|^(tokenizer\.model|merges\.txt|chat_template\.jinja|README\.md|LICENSE.*|NOTICE.*)$/i;

/**
 * What is downloaded unless names are given: the safetensors with their index (or else the only .gguf, or else the ONNX
 * graph), the configs, the tokenizer, the licence. Pickles, other frameworks' weights and copies in subfolders stay
 * where they are. A graph that is named brings what it cannot run without.
 */
export function selectFiles(repo: string, all: readonly RemoteFile[], names?: readonly string[]): RemoteFile[] {
  const companions = all.filter(({ name }) => !name.includes('/') && COMPANIONS.test(name));
  if (names !== undefined) {
    const chosen = names.map((name) => {
      const file = all.find((candidate) => candidate.name === name);
      if (file !== undefined) return file;
      const known = all.slice(0, 12).map((candidate) => candidate.name);
      throw new HubSelectionError({
        what: `${repo} has no file ${JSON.stringify(name)}`,
        fix: `it has ${known.join(', ')}`,
      });
    });
    const graphs = chosen.filter(({ name }) => name.endsWith('.onnx'));
    const needed = graphs.flatMap(({ name }) => [...companions, ...externalData(all, name)]);
    return [...new Set([...needed, ...chosen])];
  }
  const top = all.filter(({ name }) => !name.includes('/'));
  let weights = top.filter(({ name }) => /\.safetensors$/.test(name) && !name.startsWith('consolidated'));
  if (weights.length === 0) {
    weights = top.filter(({ name }) => name.endsWith('.gguf'));
    if (weights.length > 1) {
      const list = weights.map(({ name }) => name).join(', ');
      throw new HubSelectionError({ what: `${repo} has several .gguf files`, fix: `name the one you want: ${list}` });
    }
  }
  if (weights.length === 0) weights = onnxGraph(repo, all);
  if (weights.length === 0) {
    const fix = all.some(({ name }) => name.endsWith('.bin'))
      ? 'its weights are pickles, which can hold code and are not read here: look for a safetensors version'
      : 'look for a repository that holds the weights';
    throw new HubSelectionError({ what: `${repo} has no .safetensors, .gguf or .onnx file`, fix });
  }
  const index = top.filter(({ name }) => name === 'model.safetensors.index.json');
  // Small files first, so that a mistake shows before the long wait.
  return [...companions, ...index, ...weights];
}

/** The graph in the repository's top folder (optimum) or in onnx/ (transformers.js), with its weights; none without one. */
function onnxGraph(repo: string, all: readonly RemoteFile[]): RemoteFile[] {
  for (const pattern of [/^[^/]+\.onnx$/, /^onnx\/[^/]+\.onnx$/]) {
    const graphs = all.filter(({ name }) => pattern.test(name));
    const graph = graphs.length === 1 ? graphs[0] : graphs.find(({ name }) => /(^|\/)model\.onnx$/.test(name));
    if (graph !== undefined) return [graph, ...externalData(all, graph.name)];
    if (graphs.length > 1) {
      const list = graphs.map(({ name }) => name).join(', ');
      throw new HubSelectionError({ what: `${repo} has several ONNX graphs`, fix: `name the one you want: ${list}` });
    }
  }
  return [];
}

/** Where exporters put the weights of a graph beyond the 2 GB of its format: model.onnx_data, model.onnx_data_1, model.onnx.data. */
function externalData(all: readonly RemoteFile[], graph: string): RemoteFile[] {
  return all.filter(({ name }) => name.startsWith(graph) && /^[._]data(_\d+)?$/.test(name.slice(graph.length)));
}

async function checkDiskSpace(folder: string, files: readonly RemoteFile[]): Promise<void> {
  let missing = 0;
  for (const file of files) {
    if (!(await isThere(join(folder, 'blobs', file.etag), file.size))) missing += file.size;
  }
  const { bavail, bsize } = await statfs(folder);
  if (missing <= bavail * bsize) return;
  throw new DiskSpaceError({
    what: `the download needs ${missing} bytes, the disk has ${bavail * bsize}`,
    where: folder,
    fix: 'free some space, or set HF_HOME to another disk',
  });
}

async function isThere(path: string, size: number): Promise<boolean> {
  return stat(path).then(
    (found) => found.size === size,
    () => false,
  );
}

type BlobJob = {
  readonly repo: string;
  readonly commit: string;
  readonly file: RemoteFile;
  readonly blob: string;
  readonly report: (fileBytes: number) => void;
};

/** Makes sure that `blob` is there; returns the bytes that came over the network. */
async function fetchBlob(client: HubClient, job: BlobJob): Promise<number> {
  const { repo, commit, file, blob } = job;
  if (await isThere(blob, file.size)) return 0;
  const partial = `${blob}.incomplete`;
  const path = file.name.split('/').map(encodeURIComponent).join('/');
  const url = `${client.endpoint}/${repo}/resolve/${commit}/${path}`;
  let received = 0;
  const count = (bytes: number): void => {
    received += bytes;
  };
  await client.retrying(
    url,
    () => continueDownload(client, job, { url, partial, count }),
    () => received,
  );
  const actual = await hashOf(partial, file);
  if (actual !== file.etag) {
    await rm(partial, { force: true });
    throw new HubContentError({
      what: `${file.name} has the hash ${actual}, the Hub announced ${file.etag}`,
      where: url,
      fix: 'the bytes were removed: run it again; if it happens again a proxy or mirror changes the file',
    });
  }
  await rename(partial, blob);
  return received;
}

/** Appends to the partial file until it is complete; a connection that ends early throws, and is tried again from there. */
async function continueDownload(
  client: HubClient,
  job: BlobJob,
  to: { readonly url: string; readonly partial: string; readonly count: (bytes: number) => void },
): Promise<void> {
  const { file, report } = job;
  const { url, partial, count } = to;
  const handle = await open(partial, 'a');
  let have = (await handle.stat()).size;
  try {
    if (have > file.size) {
      await handle.truncate(0);
      have = 0;
    }
    if (have === file.size) return;
    const { status, headers, body } = await client.get(url, job.repo, have);
    const start = status === 206 ? Number(/^bytes (\d+)-/.exec(headers.get('content-range') ?? '')?.[1] ?? -1) : 0;
    if (status === 416 || start !== have) {
      // The server ignored the range, or does not know it: begin again with what it gives.
      await handle.truncate(0);
      have = 0;
      if (status === 416 || start !== 0) throw new TypeError('the server gave another range than was asked for');
    }
    for await (const part of body) {
      if (have + part.byteLength > file.size) {
        await handle.truncate(0);
        throw new HubContentError({
          what: `${file.name} is longer than the ${file.size} bytes the Hub announced`,
          where: url,
          fix: 'run it again; if it happens again a proxy or mirror changes the file',
        });
      }
      await handle.write(part);
      have += part.byteLength;
      count(part.byteLength);
      report(have);
    }
    if (have < file.size) throw new TypeError(`the body ended at byte ${have} of ${file.size}`);
    await handle.sync();
  } catch (error) {
    if (client.signal?.aborted) throw new CancelledError();
    throw error;
  } finally {
    await handle.close();
  }
}

/** SHA-256, or git's SHA-1 of a blob, according to the length of the announced hash. */
async function hashOf(path: string, file: RemoteFile): Promise<string> {
  let hash: Hash;
  if (file.etag.length === 64) hash = createHash('sha256');
  else hash = createHash('sha1').update(`blob ${file.size}\0`);
  for await (const part of createReadStream(path)) hash.update(part as Uint8Array);
  return hash.digest('hex');
}

/** The snapshot's entry: a relative link, or a copy where links are not allowed (Windows without developer mode). */
async function link(blob: string, entry: string): Promise<void> {
  await mkdir(dirname(entry), { recursive: true });
  await rm(entry, { force: true });
  try {
    await symlink(relative(dirname(entry), blob), entry);
  } catch (error) {
    if (!['EPERM', 'EACCES', 'ENOTSUP', 'ENOSYS'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
    await copyFile(blob, entry);
  }
}
