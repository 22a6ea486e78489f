#!/bin/sh
# @huggingface/hub (JavaScript), which knows how many weights lie in a number of GPTQ, MLX, MXFP4 and other packs, counts one
# parameter for each byte of a ternary model that transformers packed ("quant_method": "bitnet", four weights to a byte): a
# quarter of them. The same weights packed by MLX in two bits are counted whole.
#
# Expected: 2,560 x 2,560 ternary weights are 6,553,600 parameters in either file. Exits non-zero when that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/hub@2.17.5
cat > count.mjs <<'JS'
import { readFileSync } from 'node:fs';
import { computeNumOfParamsByDtypeSingleFile } from '@huggingface/hub';

console.log(`@huggingface/hub ${JSON.parse(readFileSync('node_modules/@huggingface/hub/package.json')).version}`);
const name = 'model.layers.0.self_attn.q_proj';
const tensor = (dtype, ...shape) => ({ dtype, shape, data_offsets: [0, 0] });
const bitnet = computeNumOfParamsByDtypeSingleFile(
  { [`${name}.weight`]: tensor('U8', 640, 2560), [`${name}.weight_scale`]: tensor('BF16', 1) },
  { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'offline' },
);
const mlx = computeNumOfParamsByDtypeSingleFile(
  {
    [`${name}.weight`]: tensor('U32', 2560, 160),
    [`${name}.scales`]: tensor('F16', 2560, 20),
    [`${name}.biases`]: tensor('F16', 2560, 20),
  },
  { quant_method: 'mlx', bits: 2, group_size: 128, mode: 'affine' },
);
console.log('packed by transformers:', JSON.stringify(bitnet));
console.log('packed by MLX:         ', JSON.stringify(mlx));
const as = bitnet.U8 === 1_638_400 && mlx.U32 === 6_553_600;
console.log(as ? 'as found' : 'changed');
process.exit(as ? 0 : 1);
JS
node count.mjs
# Seen with Node 20.20.2:
#   packed by transformers: {"U8":1638400}
#   packed by MLX:          {"U32":6553600}
