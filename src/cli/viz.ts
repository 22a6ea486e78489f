import { basename } from 'node:path';
import { PICTURE_SCHEMES, type PictureScheme } from '../color/picture-colors.ts';
import { ArgumentError } from '../errors.ts';
import type { TernaryLayer } from '../formats/ternary-layers.ts';
import { openTernaryModel, remarksOn, selectLayers } from '../tools/ternary-model.ts';
import { tritPicture } from '../tools/trit-pictures.ts';
import { defineCommand } from './command.ts';
import { openProgressBar } from './progress-bar.ts';
import { refuseOtherThanPng, writeOutput } from './write-output.ts';

/** More maps than these make a picture that no viewer opens gladly. */
const MAX_LAYERS = 64;

export const command = defineCommand({
  name: 'viz',
  summary: "A layer's weights as pixels in the three trit colors",
  positionals: [
    {
      name: 'MODEL_OR_FILE',
      description: 'default, a model folder, a .safetensors or .gguf file; or layer_N.weights.png, see below',
    },
  ],
  flags: {
    layer: { type: 'string', placeholder: 'NAME', description: 'Layer name or glob, such as "model.layers.0.*"' },
    out: { type: 'string', short: 'o', placeholder: 'FILE.png', description: 'Picture to write (default: LAYER.png)' },
    model: {
      type: 'string',
      placeholder: 'M',
      description: 'Model of the form layer_N.weights.png (default: default)',
    },
    seed: {
      type: 'seed',
      default: 1069n,
      placeholder: 'S',
      description: 'Color stream: indices 1, 2, 3 are -1, 0, +1',
    },
    scheme: {
      type: 'string',
      choices: PICTURE_SCHEMES,
      default: 'contrast',
      placeholder: 'X',
      description: "contrast: colors that every eye tells apart; the others: the seed's own",
    },
    window: {
      type: 'integers',
      placeholder: 'ROW,COLUMN',
      description: 'Single weights from there on, beside the map; a matrix larger than its map has them from 0,0 on',
    },
    'max-side': {
      type: 'integer',
      min: 16,
      max: 8192,
      default: 1024,
      placeholder: 'N',
      description: 'Longest side of a map in pixels; larger matrices are drawn in blocks',
    },
  },
  examples: [
    'viz layer_0.weights.png',
    'viz default --layer model.layers.2.mlp.down_proj.weight -o down.png',
    'viz default --layer model.layers.0.self_attn.q_proj.weight --scheme trace -o seed.png',
    'viz default --layer model.layers.0.self_attn.q_proj.weight --window 64,128 -o window.png',
  ],
  notes:
    'viz layer_0.weights.png draws all matrices of layer 0 of the default model into that file; ' +
    'viz layer_3.q_proj.weights.png draws one of them. ' +
    'Pictures are drawn in colors that every eye tells apart, dark blue for -1, near white for 0, orange for +1, since the ' +
    "seed's own may not be; the legend names both. Of a matrix larger than --max-side a pixel is a block: the darker, the\n" +
    'fewer of its weights are 0; the bluer, the more of the others are -1. Attention matrices have a ruler of their heads. ' +
    'Pictures are PNG.',
  run: async ({ positionals, flags, json, output, signal }) => {
    const form = flags.layer === undefined ? layerOfFileName(positionals[0]!) : undefined;
    if (form === undefined && flags.layer === undefined) {
      const named = /^(layer_\d{1,5}(?:\.[\w.]+)?\.weights)\.\w+$/.exec(basename(positionals[0]!))?.[1];
      if (named !== undefined) refuseOtherThanPng(positionals[0]!);
      throw new ArgumentError({
        what: 'viz needs --layer',
        fix: `name a layer or a glob (bitnet-gf3 analyze ${positionals[0]} lists them), or a file such as layer_0.weights.png`,
      });
    }
    const name = form === undefined ? positionals[0]! : (flags.model ?? 'default');
    using model = await openTernaryModel(name);
    for (const remark of remarksOn(model)) output.note(`warning: ${remark}`);
    const layers = form === undefined ? selectLayers(model.layers, flags.layer) : layersOf(model.layers, form);
    if (layers.length > MAX_LAYERS) {
      throw new ArgumentError({
        what: `${layers.length} layers match, a picture takes at most ${MAX_LAYERS}`,
        fix: 'use a narrower glob',
      });
    }
    const file =
      flags.out ?? (form === undefined ? `${layers[0]!.name.replace(/[^\w.-]/g, '_')}.png` : positionals[0]!);
    refuseOtherThanPng(file);
    using bar = openProgressBar({ output, json }, 'viz');
    bar.update(0, 1);
    const png = await tritPicture(model, layers, {
      seed: flags.seed,
      scheme: flags.scheme as PictureScheme,
      maxSide: flags['max-side'],
      window: windowAt(flags.window),
      signal,
    });
    await writeOutput(file, png);
    bar[Symbol.dispose]();
    if (json) output.json({ file, layers: layers.map((layer) => layer.name), bytes: png.length });
    else output.note(`wrote ${file}: ${layers.length === 1 ? layers[0]!.name : `${layers.length} matrices`}`);
    return 0;
  },
});

function windowAt(place: readonly number[] | undefined): { row: number; column: number } | undefined {
  if (place === undefined) return undefined;
  const [row, column] = place;
  if (row !== undefined && column !== undefined && place.length === 2) return { row, column };
  throw new ArgumentError({
    what: `--window needs a row and a column, got "${place.join(',')}"`,
    fix: 'for example --window 64,128',
  });
}

type LayerForm = { readonly index: number; readonly matrix: string | undefined };

/** `layer_0.weights.png`, `layer_12.q_proj.weights.png`; undefined for any other name. */
export function layerOfFileName(path: string): LayerForm | undefined {
  const match = /^layer_(\d{1,5})(?:\.([\w.]+?))?\.weights\.png$/.exec(basename(path));
  return match === null ? undefined : { index: Number(match[1]), matrix: match[2] };
}

function layersOf(layers: readonly TernaryLayer[], { index, matrix }: LayerForm): readonly TernaryLayer[] {
  // `model.layers.0.`, `blk.0.`, `transformer.h.0.`: the first number of a name is its layer.
  const inLayer = layers.filter(({ name }) => Number(/\.(\d+)\./.exec(name)?.[1]) === index);
  if (inLayer.length === 0) {
    const indices = layers.map(({ name }) => Number(/\.(\d+)\./.exec(name)?.[1])).filter(Number.isInteger);
    throw new ArgumentError({
      what: `the model has no layer ${index}`,
      fix:
        indices.length === 0
          ? 'use --layer with a name'
          : `layers go from ${Math.min(...indices)} to ${Math.max(...indices)}`,
    });
  }
  const chosen = inLayer.filter(({ name }) => matrix === undefined || name.split('.').includes(matrix));
  if (chosen.length > 0) return chosen;
  throw new ArgumentError({
    what: `layer ${index} has no matrix "${matrix}"`,
    fix: `it has ${inLayer
      .map(({ name }) =>
        name
          .replace(/\.weight$/, '')
          .split('.')
          .at(-1),
      )
      .join(', ')}`,
  });
}
