# The commands of the README under short names; `just` is optional, each line works by itself.

set positional-arguments

bin := "node dist/cli/main.js"

# List the recipes
default:
    @just --list

# Install what is missing and compile
ready:
    node scripts/ensure-ready.mjs

# Write text with a GF(3) trace: just bitnet-infer "Once upon a time" --max-tokens 24
bitnet-infer *args: ready
    {{bin}} infer --trace-gf3 "$@"

# Trits of every layer of a model: just bitnet-analyze default
bitnet-analyze *args: ready
    {{bin}} analyze "$@"

# Quantization-aware training: just bitnet-train --dataset data.jsonl
bitnet-train *args: ready
    {{bin}} train --qat "$@"

# A layer's weights as a picture: just bitnet-viz layer_0.weights.png
bitnet-viz *args: ready
    {{bin}} viz "$@"
