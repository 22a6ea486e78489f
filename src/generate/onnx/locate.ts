// From a model's name to its graph and to the folder of its config.json and tokenizer. Exporters use two layouts: all in
// one folder (optimum), or the graphs in a subfolder onnx/ (transformers.js).

import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ArgumentError } from '../../errors.ts';
import type { ModelLocation } from '../../hub/resolve-model.ts';
import type { LocatedModel } from '../engine.ts';

/** Names that exporters give to the graph of a whole decoder, the best first. */
const GRAPHS = ['model.onnx', 'decoder_model_merged.onnx', 'decoder_model.onnx'];

/**
 * `name` is a folder or hub id as everywhere, or one .onnx file in such a folder, which chooses among several precisions.
 * `resolve` decides what may be read.
 */
export async function locateOnnx(
  name: string,
  resolve: (name: string) => Promise<ModelLocation>,
): Promise<LocatedModel> {
  if (/\.onnx(@[^/@]+)?$/i.test(name)) return locateFile(name, resolve);
  const location = await resolve(name);
  if (location.kind !== 'folder') {
    throw new ArgumentError({
      what: `${JSON.stringify(name)} is a .${location.kind} file, the backend "onnx" runs ONNX graphs`,
      fix: 'name a folder with model.onnx, config.json and tokenizer.json, or leave --backend out',
    });
  }
  for (const folder of [location.path, join(location.path, 'onnx')]) {
    const graphs = (await filesIn(folder)).filter((file) => file.toLowerCase().endsWith('.onnx')).sort();
    const graph = GRAPHS.find((known) => graphs.includes(known)) ?? (graphs.length === 1 ? graphs[0] : undefined);
    if (graph !== undefined) return { ...location, onnxFile: join(folder, graph) };
    if (graphs.length > 1) {
      throw new ArgumentError({
        what: `${JSON.stringify(name)} holds several ONNX graphs`,
        where: folder,
        fix: `name the file of one: ${graphs.slice(0, 8).join(', ')}`,
      });
    }
  }
  throw new ArgumentError({
    what: `${JSON.stringify(name)} holds no .onnx file`,
    where: location.path,
    fix: 'name a folder with model.onnx, config.json and tokenizer.json, or leave --backend out',
  });
}

/** ORG/NAME/FILE.onnx or ORG/NAME/FOLDER/FILE.onnx with or without @REVISION; paths of that form read the same. */
const IN_REPOSITORY = /^([^/@]+\/[^/@]+)\/((?:[^/@]+\/)?[^/@]+\.onnx)(@[^/@]+)?$/i;

async function locateFile(name: string, resolve: (name: string) => Promise<ModelLocation>): Promise<LocatedModel> {
  const [, repository, inside, revision = ''] = IN_REPOSITORY.exec(name) ?? [];
  const location = await resolve(repository === undefined ? dirname(name) : `${repository}${revision}`);
  const onnxFile = join(location.path, inside ?? basename(name));
  const files = await filesIn(dirname(onnxFile));
  if (!files.includes(basename(onnxFile))) {
    throw new ArgumentError({
      what: `there is no ${basename(onnxFile)}`,
      where: dirname(onnxFile),
      fix: `it holds ${files.filter((file) => file.endsWith('.onnx')).join(', ') || 'no .onnx file'}`,
    });
  }
  const hasConfig = (await filesIn(location.path)).includes('config.json');
  // The graph may lie in onnx/ of the model's folder, and that be named from within.
  const home = hasConfig || basename(location.path) !== 'onnx' ? location : await resolve(dirname(location.path));
  return { ...home, name, onnxFile };
}

async function filesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch(() => []);
}
