// Downloads a model into the hub cache, in the layout of Hugging Face's own tools: what they fetched we reuse, and the
// other way round. A file becomes visible only when its bytes have the announced hash; an interrupted download goes on
// where it stopped.

import { createHash, type Hash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, type FileHandle, open, readdir, readFile, rm, stat, statfs, symlink } from 'node:fs/promises';
import { dirname, join, relative, sep } from 'node:path';
import { ArgumentError, CancelledError } from '../errors.ts';
import { writeFileAtomically } from '../formats/atomic-file.ts';
import { refusalOf, WriteError } from '../formats/errors.ts';
import { isLfsPointer, LFS_POINTER_BYTES } from '../formats/lfs-pointer.ts';
import { makeFolder } from '../formats/make-folder.ts';
import { renameOver } from '../formats/rename-over.ts';
import { lockFile } from './file-lock.ts';
import { type Environment, hubCacheFolder, isRepoId, isRevision, repoFolder, snapshotFolder } from './hub-cache.ts';
import { HubClient, ShortBodyError } from './hub-client.ts';
import { DiskSpaceError, HubConnectionError, HubContentError, HubSelectionError } from './hub-errors.ts';
import { offlineVariable } from './hub-settings.ts';
import { type RemoteFile, selectFiles } from './select-files.ts';

/** More files than any model repository we know of (a few hundred). */
const MAX_FILES = 10_000;
/** A download that begins anew again and again ends when so many times its size came and was thrown away. */
const MAX_WASTE = 3;

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
  /** Told in a sentence what a user may want to know: our choice among several models, another try, a wait. */
  readonly onNotice?: (line: string) => void;
  /** Base of the growing pause between tries; tests shorten it. */
  readonly retryDelayMs?: number;
  /** After how long the lock of another pull counts as left behind; tests shorten it. */
  readonly leftBehindMs?: number;
};

export type PullResult = {
  readonly repo: string;
  readonly commit: string;
  /** The snapshot folder. */
  readonly path: string;
  readonly files: readonly string[];
  /** Bytes that came over the network this time. */
  readonly downloadedBytes: number;
  /** What was chosen among several models, and the others. */
  readonly choice?: string;
};

export async function pull(repo: string, options: PullOptions = {}): Promise<PullResult> {
  const { revision = 'main', env = process.env, signal, onNotice } = options;
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
  const forbidding = offlineVariable(env);
  if (forbidding !== undefined) return await pullOffline(repo, { ...options, revision, env, forbidding });
  const client = await HubClient.open({
    env,
    ...(signal === undefined ? {} : { signal }),
    ...(onNotice === undefined ? {} : { onNotice }),
    ...(options.retryDelayMs === undefined ? {} : { retryDelayMs: options.retryDelayMs }),
  });
  const cache = hubCacheFolder(env);
  const { commit, all } = await listFiles(client, repo, revision).catch(async (error: unknown) => {
    const cached = error instanceof HubConnectionError ? await snapshotFolder(cache, repo, revision) : undefined;
    if (cached !== undefined) onNotice?.(`what was downloaded before can still be used: ${cached.path}`);
    throw error;
  });
  const { files, choice } = selectFiles(repo, all, options.files);
  if (choice !== undefined) onNotice?.(choice);
  const folder = repoFolder(cache, repo);
  const snapshot = join(folder, 'snapshots', commit);
  await makeFolder(join(folder, 'blobs'));
  await makeFolder(snapshot);
  await checkDiskSpace(folder, snapshot, files);

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
    const entry = join(snapshot, file.name);
    // A link into blobs, or the file itself, as Hugging Face's tools lay it where links are not allowed.
    if (!(await isThere(entry, file.size))) {
      downloadedBytes += await fetchFile(client, { repo, commit, file, blob, entry, report, options });
    }
    report(file.size);
    doneBytes += file.size;
  }
  // Last: until now nobody could take the snapshot for a complete one.
  if (revision !== commit) {
    const ref = join(folder, 'refs', revision);
    await makeFolder(dirname(ref));
    await writeFileAtomically(ref, (sink) => sink.write(Buffer.from(commit)));
  }
  return {
    repo,
    commit,
    path: snapshot,
    files: files.map(({ name }) => name),
    downloadedBytes,
    ...(choice === undefined ? {} : { choice }),
  };
}

/** What is in the cache, where nothing may be asked. */
async function pullOffline(
  repo: string,
  options: PullOptions & { readonly revision: string; readonly env: Environment; readonly forbidding: string },
): Promise<PullResult> {
  const { revision, env, forbidding, onNotice } = options;
  const missing = (what: string, cause?: unknown) =>
    new HubConnectionError({ what: `${forbidding} forbids downloads, and ${what}`, fix: 'unset it' }, { cause });
  const cached = await snapshotFolder(hubCacheFolder(env), repo, revision);
  if (cached === undefined) throw missing(`the cache has no ${repo} at ${revision}`);
  const entries = await readdir(cached.path, { recursive: true });
  const all: RemoteFile[] = [];
  for (const entry of entries) {
    // Through links: a blob that is gone is no file.
    const found = await stat(join(cached.path, entry)).catch(() => undefined);
    if (found?.isFile()) all.push({ name: entry.split(sep).join('/'), size: found.size, etag: '' });
  }
  try {
    const { files, choice } = selectFiles(repo, all, options.files);
    if (choice !== undefined) onNotice?.(choice);
    onNotice?.(`${forbidding} is set: the Hub was not asked for anything newer`);
    return {
      repo,
      commit: cached.commit,
      path: cached.path,
      files: files.map(({ name }) => name),
      downloadedBytes: 0,
      ...(choice === undefined ? {} : { choice }),
    };
  } catch (cause) {
    if (!(cause instanceof HubSelectionError)) throw cause;
    throw missing(`in the cache ${cause.text.what}`, cause);
  }
}

async function listFiles(
  client: HubClient,
  repo: string,
  revision: string,
): Promise<{ commit: string; all: RemoteFile[] }> {
  const path = `/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const answer = await client.json(path, repo);
  return readFileList(answer, `${client.endpoint}${path}`);
}

/** The Hub's answer about a repository, checked. Throws HubContentError. */
export function readFileList(answer: unknown, where: string): { commit: string; all: RemoteFile[] } {
  const bad = (what: string): HubContentError =>
    new HubContentError({ what: `the Hub's list of files ${what}`, where, fix: 'check HF_ENDPOINT' });
  const { sha, siblings } = asObject(answer);
  if (typeof sha !== 'string' || !/^[0-9a-f]{40}$/.test(sha)) throw bad('names no commit');
  if (!Array.isArray(siblings) || siblings.length > MAX_FILES) throw bad('is missing or too long');
  const names = new Set<string>();
  const all = siblings.map((sibling: unknown): RemoteFile => {
    const { rfilename, size, blobId, lfs } = asObject(sibling);
    if (typeof rfilename !== 'string') throw bad('holds a file without a name');
    const shown = JSON.stringify(rfilename.slice(0, 200));
    if (!isSafeName(rfilename)) throw bad(`holds the name ${shown}, which could lead out of the cache`);
    if (names.has(rfilename)) throw bad(`holds the name ${shown} twice`);
    names.add(rfilename);
    const large = asObject(lfs);
    const etag = large.sha256 ?? blobId;
    const bytes = large.size ?? size;
    if (typeof etag !== 'string' || !/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(etag)) throw bad(`gives no hash of ${shown}`);
    if (typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < 0) throw bad(`gives no size of ${shown}`);
    return { name: rfilename, size: bytes, etag };
  });
  return { commit: sha, all };
}

function asObject(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

/** What Windows takes for a device, with any ending. */
const DEVICE = /^(con|prn|aux|nul|conin\$|conout\$|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])\s*(\.|$)/i;

/** A relative path of plain parts, which mean the same on every system. */
function isSafeName(name: string): boolean {
  if (name === '' || name.length > 1024 || /[\\:*?"<>|\p{Cc}\p{Surrogate}]/u.test(name)) return false;
  return name
    .split('/')
    .every((part) => part !== '' && part.length <= 255 && !/^\.{1,2}$|[. ]$|^ /.test(part) && !DEVICE.test(part));
}

async function checkDiskSpace(folder: string, snapshot: string, files: readonly RemoteFile[]): Promise<void> {
  let missing = 0;
  for (const { name, etag, size } of files) {
    const blob = join(folder, 'blobs', etag);
    if ((await isThere(join(snapshot, name), size)) || (await isThere(blob, size))) continue;
    const have = await stat(`${blob}.incomplete`).catch(() => undefined);
    missing += Math.max(0, size - (have?.size ?? 0));
  }
  const { bavail, bsize } = await statfs(folder);
  if (missing > bavail * bsize)
    throw diskIsFull(`the download needs ${missing} bytes, the disk has ${bavail * bsize}`, folder);
}

function diskIsFull(what: string, where: string, cause?: unknown): DiskSpaceError {
  return new DiskSpaceError({ what, where, fix: 'free some space, or set HF_HOME to another disk' }, { cause });
}

async function isThere(path: string, size: number): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile() && found.size === size,
    () => false,
  );
}

type FileJob = {
  readonly repo: string;
  readonly commit: string;
  readonly file: RemoteFile;
  readonly blob: string;
  /** Its place in the snapshot. */
  readonly entry: string;
  readonly report: (fileBytes: number) => void;
  readonly options: PullOptions;
};

/** Makes sure that the file is in its snapshot; returns the bytes that came over the network. */
async function fetchFile(client: HubClient, job: FileJob): Promise<number> {
  const { file, blob, entry, report, options } = job;
  const partial = `${blob}.incomplete`;
  await makeFolder(dirname(entry));
  await using _ = await lockFile(`${partial}.lock`, {
    signal: client.signal,
    ...(options.leftBehindMs === undefined ? {} : { leftBehindMs: options.leftBehindMs }),
    onWait: (isFirst) => {
      if (isFirst) options.onNotice?.(`another pull is at ${file.name}: waiting for it`);
      void stat(partial)
        .then(({ size }) => report(Math.min(size, file.size)))
        .catch(() => {});
    },
  }).catch((cause: unknown) => {
    if (cause instanceof CancelledError) throw cause;
    const { reason, fix } = refusalOf(cause);
    throw new WriteError({ file: dirname(blob), what: `cannot write here: ${reason}`, fix }, cause);
  });
  // Whoever was waited for has made it.
  if (await isThere(entry, file.size)) return 0;
  const received = (await isThere(blob, file.size)) ? 0 : await download(client, job, partial);
  await link(blob, entry);
  return received;
}

/** Downloads what the partial file lacks and makes it the blob. */
async function download(client: HubClient, job: FileJob, partial: string): Promise<number> {
  const { repo, commit, file, blob } = job;
  const path = file.name.split('/').map(encodeURIComponent).join('/');
  const url = `${client.endpoint}/${repo}/resolve/${commit}/${path}`;
  const count = { received: 0, farthest: 0 };
  await client.retrying(
    url,
    () => continueDownload(client, job, { url, partial, count }),
    // Not what was received: bytes that are thrown away and come again are no progress.
    () => count.farthest,
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
  await renameOver(partial, blob);
  return count.received;
}

type Download = {
  readonly url: string;
  readonly partial: string;
  readonly count: { received: number; farthest: number };
};

/** Appends to the partial file until it is complete; a connection that ends early throws, and is tried again from there. */
async function continueDownload(client: HubClient, job: FileJob, to: Download): Promise<void> {
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
    using answer = await client.get(url, job.repo, have);
    const { status, headers, body } = answer;
    const start = status === 206 ? Number(/^bytes (\d+)-/.exec(headers.get('content-range') ?? '')?.[1] ?? -1) : 0;
    if (status === 416 || start !== have) {
      // The server ignored the range, or does not know it: begin again with what it gives.
      await handle.truncate(0);
      have = 0;
      if (status === 416 || start !== 0) throw new ShortBodyError('the server gave another range than was asked for');
    }
    for await (const part of body) {
      if (have + part.byteLength > file.size) {
        await handle.truncate(0);
        throw wrongLength(`${file.name} is longer than the ${file.size} bytes the Hub announced`, url);
      }
      await append(handle, part, partial);
      have += part.byteLength;
      count.received += part.byteLength;
      count.farthest = Math.max(count.farthest, have);
      if (count.received - have > MAX_WASTE * file.size) {
        throw wrongLength(
          `${file.name} begins anew again and again: ${count.received} of its ${file.size} bytes came`,
          url,
        );
      }
      report(have);
    }
    if (have < file.size) {
      if (have < 1024 && isLfsPointer((await readFile(partial)).subarray(0, LFS_POINTER_BYTES))) {
        await handle.truncate(0);
        throw wrongLength(`the server gives a Git LFS pointer in the place of ${file.name}`, url);
      }
      throw new ShortBodyError(`${file.name} ended at byte ${have} of the ${file.size} that the Hub announced`);
    }
    await handle.sync();
  } catch (error) {
    if (client.signal?.aborted) throw new CancelledError();
    throw error;
  } finally {
    await handle.close();
  }
}

function wrongLength(what: string, where: string): HubContentError {
  const fix = 'run it again; if it happens again a proxy or mirror changes the file';
  return new HubContentError({ what, where, fix });
}

async function append(handle: FileHandle, part: Uint8Array, path: string): Promise<void> {
  for (let done = 0; done < part.byteLength; ) {
    try {
      done += (await handle.write(part, done)).bytesWritten;
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      const { reason, fix } = refusalOf(cause);
      if (code === 'ENOSPC' || code === 'EDQUOT') throw diskIsFull(`writing stopped: ${reason}`, path, cause);
      throw new WriteError({ file: path, what: `writing failed: ${reason}`, fix }, cause);
    }
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

/**
 * The snapshot's entry: a relative link, or the file itself where links are not allowed (Windows without developer mode).
 * Put in place by a rename: who looks there meanwhile finds the old entry or the new one.
 */
async function link(blob: string, entry: string): Promise<void> {
  const made = join(dirname(entry), `.${randomUUID()}.tmp`);
  try {
    try {
      await symlink(relative(dirname(entry), blob), made);
    } catch (error) {
      if (!['EPERM', 'EACCES', 'ENOTSUP', 'ENOSYS'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
      // Moved, as Hugging Face's tools do, so that the model is on disk once; copied from another disk.
      await renameOver(blob, made).catch(() => copyFile(blob, made));
    }
    await renameOver(made, entry);
  } catch (cause) {
    await rm(made, { force: true });
    const { reason, fix } = refusalOf(cause);
    throw new WriteError({ file: entry, what: `cannot put the file here: ${reason}`, fix }, cause);
  }
}
