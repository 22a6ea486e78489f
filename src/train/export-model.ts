// Writes trained latents as models that `infer` and Hugging Face transformers load: packed trits, and float masters from
// which training can go on.

import { readFile, realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ArgumentError } from '../errors.ts';
import { writeFileAtomically } from '../formats/atomic-file.ts';
import { makeFolder } from '../formats/make-folder.ts';
import { type TensorToWrite, writeSafetensors } from '../formats/write-safetensors.ts';
import { packRowquad } from '../quant/rowquad.ts';
import { companionFiles } from '../tokenizer/companion-files.ts';
import { quantizeMatrices } from './ops/bit-linear.ts';
import { type Parameter, type ParameterPlan, view } from './parameters.ts';
import { MASTER_FOLDER } from './trainable-model.ts';

export type ExportSource = {
  /** config.json of the model that was trained. */
  readonly configJson: Readonly<Record<string, unknown>>;
  readonly plan: ParameterPlan;
  readonly latents: Float32Array;
  /** Where tokenizer files are copied from. */
  readonly companions: string;
};

/** config.json for one of the two forms. Our 1bitLLM graph has no quantization_config while it holds masters. */
export function exportConfig(
  configJson: Readonly<Record<string, unknown>>,
  mode: 'online' | 'offline',
): Record<string, unknown> {
  const { quantization_config: _, torch_dtype: __, dtype: ___, ...rest } = configJson;
  const architectures = rest.architectures as readonly string[] | undefined;
  if (architectures?.[0] === 'BitnetForCausalLM' && mode === 'online') return { ...rest, torch_dtype: 'float32' };
  return {
    ...rest,
    torch_dtype: 'float32',
    quantization_config: { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: mode },
  };
}

/**
 * Refuses to write a trained model over the one it came from: a run that was stopped could not be resumed, and worlds that
 * began from it could not be replayed.
 */
export async function refuseOwnFolder(model: string, out: string): Promise<void> {
  const real = (path: string) => realpath(path).catch(() => path);
  const written = [await real(out), await real(join(out, MASTER_FOLDER))];
  const read = [await real(model), await real(join(model, MASTER_FOLDER))];
  if (!written.some((path) => read.includes(path))) return;
  throw new ArgumentError({
    what: 'this would overwrite the model to go on from',
    where: out,
    fix: 'name another folder with --out',
  });
}

const bytesOf = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

function plainTensor(parameter: Parameter, latents: Float32Array): TensorToWrite {
  const { name, shape } = parameter;
  return { name, dtype: 'F32', shape, bytes: bytesOf(view(latents, parameter)) };
}

function packedTensors(parameter: Parameter, latents: Float32Array): TensorToWrite[] {
  const { name } = parameter;
  const [rows, columns] = parameter.shape as [number, number];
  const trits = new Int8Array(parameter.length);
  const [scale] = quantizeMatrices([{ name, w: view(latents, parameter), trits }]);
  return [
    { name, dtype: 'U8', shape: [Math.ceil(rows / 4), columns], bytes: packRowquad(trits, rows, columns) },
    { name: `${name}_scale`, dtype: 'F32', shape: [1], bytes: bytesOf(Float32Array.of(scale!)) },
  ];
}

/**
 * Fills `out` with the packed model and its tokenizer, and `out/master` with the float masters, each file written whole
 * or not at all. Embedding and norms stay float32, so that inference gives exactly the logits of training.
 */
export async function exportModel(out: string, source: ExportSource): Promise<void> {
  const { plan, latents, configJson } = source;
  const master = join(out, MASTER_FOLDER);
  await makeFolder(master);
  const metadata = { format: 'pt' };
  await writeSafetensors(
    join(master, 'model.safetensors'),
    plan.all.map((parameter) => plainTensor(parameter, latents)),
    metadata,
  );
  await writeJson(join(master, 'config.json'), exportConfig(configJson, 'online'));
  await writeSafetensors(
    join(out, 'model.safetensors'),
    plan.all.flatMap((parameter) =>
      parameter.kind === 'ternary' ? packedTensors(parameter, latents) : [plainTensor(parameter, latents)],
    ),
    metadata,
  );
  await writeJson(join(out, 'config.json'), exportConfig(configJson, 'offline'));
  if (source.companions === out) return;
  for (const parts of await companionFiles(source.companions)) {
    const bytes = await readFile(join(source.companions, ...parts));
    const to = join(out, ...parts);
    if (parts.length > 1) await makeFolder(dirname(to));
    await writeFileAtomically(to, (sink) => sink.write(bytes));
  }
}

export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeText(path, jsonText(value));
}

export function jsonText(value: unknown): string {
  return `${JSON.stringify(value, null, 1)}\n`;
}

export async function writeText(path: string, text: string): Promise<void> {
  await writeFileAtomically(path, (sink) => sink.write(Buffer.from(text, 'utf8')));
}
