// From a path to an open checkpoint, whatever kind it is.

import { readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Checkpoint } from './checkpoint.ts';
import { FileAccessError, NoCheckpointError } from './errors.ts';
import { GgufFile } from './gguf-file.ts';
import { ggufModels } from './model-files.ts';
import { type OpenOptions, RandomAccessFile } from './random-access-file.ts';
import { SafetensorsFile } from './safetensors-file.ts';
import { readShardIndex, SHARD_INDEX_NAME, ShardedSafetensors } from './sharded-safetensors.ts';

/**
 * Opens a model folder (Hugging Face layout, or one that holds a single .gguf), a .safetensors file, an index of
 * shards, or a .gguf file. Files are told apart by content, not by name.
 */
export async function openCheckpoint(path: string, options: OpenOptions = {}): Promise<Checkpoint> {
  let isFolder: boolean;
  try {
    isFolder = statSync(path).isDirectory();
  } catch (cause) {
    const errno = (cause as NodeJS.ErrnoException).code;
    throw new FileAccessError(
      path,
      errno === 'ENOENT' ? 'there is no such file or folder' : `cannot be opened: ${errno}`,
      { cause },
    );
  }
  return isFolder ? openFolder(path, options) : openFile(path, options);
}

async function openFile(path: string, options: OpenOptions): Promise<Checkpoint> {
  if (path.endsWith('.index.json')) return ShardedSafetensors.open(path);
  const start = await firstBytes(path);
  const magic = String.fromCharCode(...start);
  if (magic === 'GGUF') return GgufFile.open(path, options);
  if (magic.startsWith('PK')) {
    throw new NoCheckpointError({
      file: path,
      offset: 0,
      what: 'this is a zip archive (a PyTorch pickle?), which is not read here because it can hold code',
      fix: 'convert it to .safetensors with the tools of its author',
    });
  }
  return SafetensorsFile.open(path, options);
}

async function firstBytes(path: string): Promise<Uint8Array> {
  using file = new RandomAccessFile(path);
  const start = new Uint8Array(Math.min(4, file.size));
  await file.readInto(start, 0);
  return start;
}

async function openFolder(folder: string, options: OpenOptions): Promise<Checkpoint> {
  const files = readdirSync(folder);
  const single = files.includes('model.safetensors') ? join(folder, 'model.safetensors') : undefined;
  if (files.includes(SHARD_INDEX_NAME)) {
    const index = join(folder, SHARD_INDEX_NAME);
    // With both present the index counts only when it is complete: a stale one is often left behind.
    if (single === undefined || (await readShardIndex(index)).files.every((name) => files.includes(name))) {
      return ShardedSafetensors.open(index);
    }
  }
  if (single !== undefined) return SafetensorsFile.open(single, options);
  // `consolidated*.safetensors` repeats the model under other names; adapters and the like have names of their own.
  const plain = files.filter((name) => name.endsWith('.safetensors') && !name.startsWith('consolidated'));
  const candidates = [...plain, ...ggufModels(files)];
  if (candidates.length === 1) return openFile(join(folder, candidates[0]!), options);
  throw new NoCheckpointError({
    file: folder,
    what:
      candidates.length === 0
        ? `the folder ${basename(folder)} holds no model.safetensors, index or .gguf file`
        : `the folder ${basename(folder)} holds several checkpoints: ${candidates.slice(0, 5).join(', ')}`,
    fix: candidates.length === 0 ? 'give the folder that holds the weights, or a file' : 'name the file itself',
  });
}
