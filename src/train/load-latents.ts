// Latent weights of a checkpoint as one flat vector. Masters are taken as they are. Packed trits have lost their
// latents; the ones put in their place give the same trits and the same scale.

import { BitnetError } from '../errors.ts';
import type { Checkpoint } from '../formats/checkpoint.ts';
import type { ModelConfig } from '../model/model-config.ts';
import { unpackRowquad } from '../quant/rowquad.ts';
import { toFloat32 } from '../quant/to-float32.ts';
import type { Parameter, ParameterPlan } from './parameters.ts';

/** A checkpoint that cannot be trained from. */
export class LatentsError extends BitnetError {
  readonly code = 'BAD_LATENTS';
  readonly fault = 'job';
}

/**
 * Latents for known trits: w = (scale / f) * trit, f = share of trits that are not 0. Their absmean is `scale` (to the
 * last float32 bit or the one beside it) and their trits are `trits`, so the first forward pass is the packed model's.
 * Plain scale * trit would not do: its absmean is f * scale, and every layer would shrink.
 */
export function latentsFromTrits(trits: Int8Array, scale: number, out: Float32Array): void {
  let nonZero = 0;
  for (const trit of trits) if (trit !== 0) nonZero += 1;
  const magnitude = nonZero === 0 ? 0 : (scale * trits.length) / nonZero;
  for (let i = 0; i < trits.length; i += 1) out[i] = trits[i]! * magnitude;
}

/** Reads every parameter of the plan; refuses missing tensors, wrong shapes, NaN and infinity. */
export async function loadLatents(
  checkpoint: Checkpoint,
  config: ModelConfig,
  plan: ParameterPlan,
): Promise<Float32Array<ArrayBuffer>> {
  const latents = new Float32Array(plan.length);
  for (const parameter of plan.all) {
    const out = latents.subarray(parameter.offset, parameter.offset + parameter.length);
    if (!checkpoint.has(parameter.name)) fail(checkpoint, parameter, 'is missing');
    const { dtype, shape } = checkpoint.info(parameter.name);
    if (parameter.kind === 'ternary' && dtype === 'U8') {
      await readPacked(checkpoint, config, parameter, out);
    } else {
      if (!['F32', 'F16', 'BF16'].includes(dtype)) fail(checkpoint, parameter, `has dtype ${dtype}, expected a float`);
      requireShape(checkpoint, parameter, shape, parameter.shape);
      out.set(toFloat32(await checkpoint.read(parameter.name)));
    }
    const bad = out.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) fail(checkpoint, parameter, `holds ${out[bad]} at element ${bad}`);
  }
  return latents;
}

async function readPacked(
  checkpoint: Checkpoint,
  config: ModelConfig,
  parameter: Parameter,
  out: Float32Array,
): Promise<void> {
  const [rows, columns] = parameter.shape as [number, number];
  requireShape(checkpoint, parameter, checkpoint.info(parameter.name).shape, [Math.ceil(rows / 4), columns]);
  const scaleName = `${parameter.name}_scale`;
  if (!checkpoint.has(scaleName)) fail(checkpoint, parameter, `has no ${scaleName}`);
  const stored = toFloat32(await checkpoint.read(scaleName));
  const scale = config.linearStorage === 'packed-divide' ? Math.fround(1 / stored[0]!) : stored[0]!;
  if (stored.length !== 1 || !(scale > 0 && Number.isFinite(scale))) {
    fail(checkpoint, parameter, `has the scale [${stored.join(', ')}], expected one positive number`);
  }
  const { bytes } = await checkpoint.read(parameter.name);
  const place = { tensor: parameter.name, file: checkpoint.info(parameter.name).file };
  latentsFromTrits(unpackRowquad(bytes, rows, columns, place), scale, out);
}

function requireShape(
  checkpoint: Checkpoint,
  parameter: Parameter,
  actual: readonly number[],
  expected: readonly number[],
): void {
  if (actual.length === expected.length && actual.every((size, axis) => size === expected[axis])) return;
  fail(checkpoint, parameter, `has the shape [${actual.join(', ')}], the config asks for [${expected.join(', ')}]`);
}

function fail(checkpoint: Checkpoint, { name }: Parameter, what: string): never {
  throw new LatentsError({
    what: `tensor ${name} ${what}`,
    where: checkpoint.path,
    fix: 'give a sound BitNet checkpoint in Hugging Face layout, packed or with float masters',
  });
}
