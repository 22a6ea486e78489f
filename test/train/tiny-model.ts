import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeSafetensors } from '../../src/formats/write-safetensors.ts';
import type { ModelFamily } from '../../src/model/model-config.ts';
import { planParameters, view } from '../../src/train/parameters.ts';
import { randomLatents, tinyConfig, tinyConfigJson } from './tiny.ts';

/** A folder with config and float masters of a small random model, without a tokenizer. Returns its path. */
export async function writeTinyModel(
  path: string,
  { family = 'bitnet', seed = 31 }: { readonly family?: ModelFamily; readonly seed?: number } = {},
): Promise<string> {
  const plan = planParameters(tinyConfig(family));
  const latents = randomLatents(plan, seed);
  await mkdir(path, { recursive: true });
  await writeFile(join(path, 'config.json'), JSON.stringify(tinyConfigJson(family)));
  await writeSafetensors(
    join(path, 'model.safetensors'),
    plan.all.map((parameter) => ({
      name: parameter.name,
      dtype: 'F32',
      shape: parameter.shape,
      bytes: new Uint8Array(view(latents, parameter).slice().buffer),
    })),
  );
  return path;
}
