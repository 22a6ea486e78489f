"""Ground truth for src/model and the engine: random checkpoints of unusual shape, and what public code makes of them.

Head sizes that are no power of two, five heads on one key/value head, odd widths, matrices whose rows are no multiple of
four, deep and tiny models, shards, every dtype a file may use, the config keys of transformers 4 and 5. The graphs are
Hugging Face's BitNetForCausalLM and LlamaForCausalLM in float32; their linear layers are replaced by the class below,
because BitLinear of transformers cannot hold a matrix whose rows are no multiple of four. 1bitLLM's graph is BitNet's
with a SiLU gate and other names for the sub-norms.

    python3 -m venv venv && venv/bin/pip install torch==2.13.0 transformers==5.18.0 safetensors==0.8.0
    venv/bin/python scripts/golden/model_cases.py              # the cases kept in test/golden/model
    venv/bin/python scripts/golden/model_cases.py --all DIR    # all of them, and variants with other seeds: --seed N

A prompt counts only if float32 noise moves no activation across a rounding boundary: of many random prompts the one that
reacts least to noise of 2^-22 after every layer is taken, and what it still does sets the tolerance.
"""

import argparse
import hashlib
import json
import math
import pathlib
import re

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
KEPT = HERE.parent.parent / "test" / "golden" / "model"
EPSILON = 1e-5
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

# storage: masters | multiply | divide. Sizes are chosen odd on purpose; `keep` marks the cases of the test suite.
CASES = [
    dict(name="extra_bitnet_head48_multiply", family="bitnet", storage="multiply", hidden=240, heads=5, kv=1, head_dim=48,
         ffn=171, layers=2, vocab=131, theta=500000.0, tied=True, style=4, keep=True),
    dict(name="extra_llama_head48_divide", family="llama", storage="divide", hidden=100, heads=5, kv=1, head_dim=48,
         ffn=433, layers=2, vocab=203, theta=1000042.0, tied=False, style=5, eps=1e-6, keep=True),
    dict(name="extra_onebitllm_odd_f16", family="onebitllm", storage="masters", hidden=66, heads=3, kv=3, head_dim=22,
         ffn=171, layers=2, vocab=97, theta=10000.0, tied=True, style=4, weight="f16", keep=True),
    dict(name="extra_bitnet_f32_untied_shards", family="bitnet", storage="masters", hidden=54, heads=3, kv=1, head_dim=18,
         ffn=91, layers=2, vocab=101, theta=10000.0, tied=False, style=5, weight="f32", dense="f16", shards=3, keep=True),
    dict(name="extra_bitnet_deep_divide", family="bitnet", storage="divide", hidden=74, heads=1, kv=1, head_dim=74,
         ffn=57, layers=8, vocab=117, theta=1e6, tied=True, style=5, dense="f32", scale="f32", scale_shape=[], keep=True),
    dict(name="extra_llama_tied_masters", family="llama", storage="masters", hidden=70, heads=7, kv=7, head_dim=10,
         ffn=131, layers=2, vocab=61, theta=5e5, tied=True, style=5, weight="bf16", keep=True),
    dict(name="more_onebitllm_grouped_f32", family="onebitllm", storage="masters", hidden=160, heads=5, kv=1, head_dim=32,
         ffn=433, layers=2, vocab=211, theta=10000.0, tied=True, style=4, weight="f32"),
    dict(name="more_smallest", family="llama", storage="divide", hidden=2, heads=1, kv=1, head_dim=2, ffn=1, layers=1,
         vocab=3, theta=10000.0, tied=False, style=4),
    dict(name="more_tiny_multiply", family="bitnet", storage="multiply", hidden=6, heads=3, kv=1, head_dim=2, ffn=5,
         layers=2, vocab=7, theta=10000.0, tied=False, style=5),
    dict(name="more_wide_multiply", family="bitnet", storage="multiply", hidden=1040, heads=5, kv=1, head_dim=208, ffn=2731,
         layers=2, vocab=509, theta=500000.0, tied=True, style=5),
    dict(name="more_wide_llama", family="llama", storage="divide", hidden=516, heads=4, kv=2, head_dim=130, ffn=1111,
         layers=3, vocab=1021, theta=500000.0, tied=False, style=4, dense="f32"),
    dict(name="more_long_prompt", family="bitnet", storage="multiply", hidden=192, heads=4, kv=2, head_dim=48, ffn=433,
         layers=3, vocab=257, theta=500000.0, tied=True, style=4, prompt=150),
    dict(name="more_long_llama", family="llama", storage="divide", hidden=110, heads=5, kv=1, head_dim=22, ffn=171,
         layers=4, vocab=129, theta=10000.0, tied=True, style=5, prompt=131, dense="f16"),
    dict(name="more_online_bf16_six_heads", family="bitnet", storage="masters", hidden=288, heads=6, kv=3, head_dim=48,
         ffn=433, layers=4, vocab=307, theta=500000.0, tied=True, style=5, weight="bf16", shards=2),
    dict(name="more_deep_llama", family="llama", storage="divide", hidden=60, heads=5, kv=1, head_dim=12, ffn=171, layers=12,
         vocab=73, theta=10000.0, tied=False, style=5, scale="f16"),
    dict(name="more_onebitllm_deep", family="onebitllm", storage="masters", hidden=84, heads=2, kv=2, head_dim=42, ffn=91,
         layers=8, vocab=89, theta=10000.0, tied=True, style=4, weight="bf16"),
    dict(name="more_wide_heads", family="llama", storage="multiply", hidden=33, heads=3, kv=3, head_dim=100, ffn=65, layers=2,
         vocab=41, theta=10000.0, tied=False, style=5),
    dict(name="more_ffn_17_blocks", family="bitnet", storage="divide", hidden=272, heads=17, kv=17, head_dim=16, ffn=259,
         layers=2, vocab=311, theta=10000.0, tied=False, style=4),
]


def absmean(w: torch.Tensor) -> tuple[torch.Tensor, float]:
    mean = w.abs().mean().clamp(min=EPSILON)
    return (w * (1.0 / mean)).round().clamp(-1, 1), mean.item()


def pack(trits: torch.Tensor) -> torch.Tensor:
    """uint8 [ceil(out / 4), in]: byte [r, c] holds rows r, r + R, r + 2R, r + 3R as trit + 1, lowest bits first."""
    rows = math.ceil(trits.shape[0] / 4)
    codes = torch.zeros(4 * rows, trits.shape[1], dtype=torch.uint8)
    codes[: trits.shape[0]] = (trits + 1).to(torch.uint8)
    quarters = codes.view(4, rows, trits.shape[1])
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


class Ternary(nn.Module):
    """y = (q . trits) * scale / a with a = 127 / max|x|, q = round(x a); `divide`: y = (q . trits) / (stored * a)."""

    def __init__(self, trits: torch.Tensor, stored: float, divide: bool):
        super().__init__()
        self.trits, self.stored, self.divide = trits, stored, divide

    def forward(self, x):
        a = 127.0 / x.abs().amax(dim=-1, keepdim=True).clamp(min=EPSILON)
        q = (x * a).round().clamp(-128, 127)
        y = q @ self.trits.T  # integers below 2^24: exact
        return y / (self.stored * a) if self.divide else y * self.stored / a


class Noise:
    """Multiplies every layer's output by 1 + 2^-22 gauss while active."""

    def __init__(self, layers):
        self.generator = None
        for layer in layers:
            layer.register_forward_hook(self.hook)

    def hook(self, _module, _inputs, output):
        if self.generator is None:
            return output
        first = output[0] if isinstance(output, tuple) else output
        noisy = first * (1 + 2.0**-22 * torch.randn(first.shape, generator=self.generator))
        return (noisy, *output[1:]) if isinstance(output, tuple) else noisy


def build(case: dict, seed: int):
    """The float32 reference model, the tensors of its file and its config.json."""
    g = torch.Generator().manual_seed(seed)
    family, hidden, heads, kv = case["family"], case["hidden"], case["heads"], case["kv"]
    head_dim, ffn, vocab = case["head_dim"], case["ffn"], case["vocab"]
    dense, stored = DTYPES[case.get("dense", "bf16")], DTYPES[case.get("weight", "bf16")]
    shared = dict(hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=case["layers"], num_attention_heads=heads,
                  num_key_value_heads=kv, vocab_size=vocab, rms_norm_eps=case.get("eps", 1e-5),
                  max_position_embeddings=256, tie_word_embeddings=case["tied"], bos_token_id=None, eos_token_id=None)
    rope = {"rope_theta": case["theta"], "rope_type": "default"}
    act = "relu2" if family == "bitnet" else "silu"
    if family == "llama":
        config = transformers.LlamaConfig(**shared, head_dim=head_dim, hidden_act=act, rope_parameters=rope)
        model = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.BitNetConfig(**shared, hidden_act=act, rope_parameters=rope)
        config.head_dim = head_dim
        model = transformers.BitNetForCausalLM(config)
    model.config._attn_implementation = "eager"
    model = model.float().eval()

    tensors: dict[str, torch.Tensor] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Embedding) or name == "lm_head":
            if name == "lm_head" and case["tied"]:
                continue
            w = torch.randn(module.weight.shape, generator=g).mul(0.7 if isinstance(module, nn.Embedding) else 0.3).to(dense)
            module.weight.data = w.float()
            tensors[f"{name}.weight"] = w
        elif "norm" in name.lower() and getattr(module, "weight", None) is not None:
            w = (1 + 0.2 * torch.randn(module.weight.shape, generator=g)).to(dense)
            module.weight.data = w.float()
            tensors[f"{name}.weight"] = w
        elif isinstance(module, nn.Linear):
            w = torch.randn(module.weight.shape, generator=g).mul(0.05 + 0.3 * torch.rand((), generator=g))
            masters = w.to(stored)
            if case["storage"] == "masters":
                trits, scale = absmean(masters.float())
                replaced = Ternary(trits, scale, divide=False)
                tensors[f"{name}.weight"] = masters
            else:
                trits, mean = absmean(w)
                divide = case["storage"] == "divide"
                number = torch.tensor([1 / mean if divide else mean]).to(DTYPES[case.get("scale", "bf16")])
                replaced = Ternary(trits, number.float().item(), divide)
                tensors[f"{name}.weight"] = pack(trits)
                tensors[f"{name}.weight_scale"] = number.reshape(case.get("scale_shape", [1]))
            model.set_submodule(name, replaced)
    if case["tied"]:
        model.lm_head.weight = model.model.embed_tokens.weight

    architecture = {"bitnet": "BitNetForCausalLM", "llama": "LlamaForCausalLM", "onebitllm": "BitnetForCausalLM"}[family]
    written = {"architectures": [architecture], "model_type": "bitnet" if family == "bitnet" else "llama",
               **{k: v for k, v in shared.items() if not k.endswith("token_id")}, "hidden_act": act,
               "attention_bias": False, "initializer_range": 0.02, "use_cache": True, "bos_token_id": 1, "eos_token_id": 2}
    if family == "llama" or case["style"] == 5 or heads * head_dim != hidden:
        written["head_dim"] = head_dim
    if case["style"] == 5:
        written |= {"rope_parameters": rope, "dtype": "float32", "transformers_version": "5.18.0"}
    else:
        written |= {"rope_theta": case["theta"], "rope_scaling": None, "torch_dtype": "float32"}
    if family == "onebitllm":
        written |= {"weight_bits": 1, "input_bits": 8}
        names = {"self_attn.attn_sub_norm": "self_attn.inner_attn_ln", "mlp.ffn_sub_norm": "mlp.ffn_layernorm"}
        tensors = {re.sub("|".join(names), lambda m: names[m[0]], k): v for k, v in tensors.items()}
    else:
        quantization = {"quant_method": "bitnet", "modules_to_not_convert": None}
        if case["storage"] != "divide":
            mode = "online" if case["storage"] == "masters" else "offline"
            quantization |= {"linear_class": "autobitlinear", "quantization_mode": mode}
        written["quantization_config"] = quantization
    return model, tensors, written


@torch.no_grad()
def reference(model, ids):
    out = model(torch.tensor([ids]), output_hidden_states=True)
    return out.logits[0], [h[0] for h in out.hidden_states]


@torch.no_grad()
def greedy(model, ids, count):
    tokens, margins = list(ids), []
    for _ in range(count):
        top = model(torch.tensor([tokens])).logits[0, -1].topk(2)
        tokens.append(top.indices[0].item())
        margins.append((top.values[0] - top.values[1]).item())
    return tokens[len(ids):], margins


def nll(logits, ids):
    return (-torch.log_softmax(logits[:-1].double(), -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])])


def make(case: dict, seed: int, out: pathlib.Path) -> list[pathlib.Path]:
    torch.manual_seed(seed)
    model, tensors, config = build(case, seed)
    noise = Noise(model.model.layers)
    g = torch.Generator().manual_seed(seed + 1)
    vocab, length, count = case["vocab"], case.get("prompt", 11), 12

    def trials(ids, function, n=4):
        changes = []
        for trial in range(n):
            noise.generator = torch.Generator().manual_seed(1000 * seed + trial)
            changes.append(function(ids))
        noise.generator = None
        return changes

    best = None
    for _ in range(8 if length > 64 else 40):
        ids = torch.randint(0, vocab, (length,), generator=g).tolist()
        following, margins = greedy(model, ids, count)
        whole = ids + following
        logits, _ = reference(model, whole)
        shift = max((l - logits).abs().max().item() for l in trials(whole, lambda i: reference(model, i)[0]))
        certain = next((i for i, m in enumerate(margins) if m < 0.02), count)
        if best is None or (certain, -shift) > (best[0], -best[1]):
            best = (certain, shift, ids, following, margins)
        if certain == count and shift < 1e-5:
            break
    certain, shift, ids, following, margins = best
    logits, hidden = reference(model, ids)
    moved = None
    for _ in range(10):
        some = torch.randint(0, vocab, (60,), generator=g).tolist()
        true = nll(reference(model, some)[0], some)
        changes = trials(some, lambda i: nll(reference(model, i)[0], i) - true)
        if moved is None or sum(c.abs().max() for c in changes) < sum(c.abs().max() for c in moved):
            text, losses, moved = some, true, changes
    expected = {
        "input_ids": ids,
        "greedy": following,
        "greedy_top2_margin": margins,
        "greedy_certain": certain,
        "perplexity": {"input_ids": text, "token_nll": losses.tolist(), "mean_nll": losses.mean().item(),
                       "perplexity": losses.mean().exp().item()},
        "chunked_prefill": {"chunks": [3, 1, length - 6, 2]},
        "tolerance": {
            "logits_max_abs": max(2e-4, 10 * shift),
            # Room for the flip of an activation: a text of this length can hardly be chosen free of them.
            "token_nll_max_abs": max(0.5, 5 * max(m.abs().max().item() for m in moved)),
            "mean_nll_abs": max(0.01, 5 * max(abs(m.mean().item()) for m in moved)),
        },
        "rounding": {"largest_logit_change_under_2^-22_noise": shift},
    }
    folder = out / case["name"]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    contiguous = {k: v.contiguous() for k, v in tensors.items()}
    shards = case.get("shards", 1)
    if shards == 1:
        save_file(contiguous, folder / "model.safetensors", {"format": "pt"})
    else:
        names = sorted(contiguous)
        files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        for i, file in enumerate(files):
            save_file({k: contiguous[k] for k in names[i::shards]}, folder / file, {"format": "pt"})
        index = {"metadata": {"total_size": sum(v.nbytes for v in contiguous.values())},
                 "weight_map": {name: files[at % shards] for at, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    save_file({"logits": logits.contiguous(), **{f"hidden.{i}": h.contiguous() for i, h in enumerate(hidden)}},
              folder / "expected.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "expected.json").write_text(json.dumps(expected))
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{case['name']:36} {size:9} bytes, noise moves logits {shift:.1e}, {certain}/{count} greedy tokens certain")
    return sorted(folder.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", type=pathlib.Path, help="write every case here instead of the kept ones")
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if args.all:
        for at, case in enumerate(CASES):
            make(case, args.seed + 10 * at, args.all)
        return
    origin_file = KEPT / "ORIGIN.json"
    origin = json.loads(origin_file.read_text())
    for at, case in enumerate(CASES):
        if not case.get("keep"):
            continue
        for file in make(case, args.seed + 10 * at, KEPT):
            origin["files"][f"{case['name']}/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    origin["extra"] = (f"extra_*: scripts/golden/model_cases.py, huggingface/transformers {transformers.__version__} "
                       f"(Apache-2.0) on PyTorch {torch.__version__.split('+')[0]}, float32, CPU")
    origin["files"] = dict(sorted(origin["files"].items()))
    origin_file.write_text(json.dumps(origin, indent=2) + "\n")


if __name__ == "__main__":
    main()
