"""Write a checkpoint that this project and Hugging Face transformers load, and read one back."""

import json
import os

import torch
from safetensors.torch import load_file, save_file

from model import Model, Shape, absmean
from tokenizer import BOS, CHAT_TEMPLATE, EOS


def pack(trits):
    """Four trits to a byte, rows a quarter of the matrix apart (transformers `pack_weights`)."""
    if trits.shape[0] % 4:
        raise ValueError("the number of rows must be a multiple of 4")
    r = trits.shape[0] // 4
    code = (trits + 1).to(torch.uint8)
    return (code[:r] | code[r : 2 * r] << 2 | code[2 * r : 3 * r] << 4 | code[3 * r :] << 6).contiguous()


def unpack(packed):
    code = torch.cat([(packed >> shift) & 3 for shift in (0, 2, 4, 6)])
    if int(code.max()) == 3:
        raise ValueError("code 3 is no trit")
    return code.float() - 1


def ternarize(master):
    """(trits, scale) of a bfloat16 master, by absmean in float32: what any loader of the masters gets."""
    w = master.float()
    scale = absmean(w)
    return (w / scale).round().clamp(-1, 1), scale


def config(shape, mode):
    return {
        "architectures": ["BitNetForCausalLM"],
        "model_type": "bitnet",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.theta,
        "rms_norm_eps": shape.eps,
        "hidden_act": "relu2",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": 0,
        "eos_token_id": [1, 2],
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": mode,
        },
    }


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")


def save_checkpoint(model, tok, out):
    """The packed model into `out`, its masters into `out/master`.

    The trits are taken from the masters after their rounding to bfloat16, so that absmean on the masters gives exactly
    the packed trits and training can go on from them.
    """
    os.makedirs(os.path.join(out, "master"), exist_ok=True)
    packed, master = {}, {}
    for name, p in model.floats():
        packed[name] = master[name] = p.detach().to("cpu", torch.bfloat16).contiguous()
    for name, w in model.ternary():
        m = w.latent.detach().to("cpu", torch.bfloat16).contiguous()
        trits, scale = ternarize(m)
        master[name] = m
        packed[name] = pack(trits)
        packed[name + "_scale"] = scale.to(torch.bfloat16).reshape(1)
    save_file(packed, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    save_file(master, os.path.join(out, "master", "model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(out, "config.json"), config(model.shape, "offline"))
    write_json(os.path.join(out, "master", "config.json"), config(model.shape, "online"))
    write_json(os.path.join(out, "generation_config.json"), {"bos_token_id": 0, "eos_token_id": [1, 2], "do_sample": False})
    write_json(
        os.path.join(out, "tokenizer_config.json"),
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "model_max_length": model.shape.context,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    tok.save(os.path.join(out, "tokenizer.json"))


def load_checkpoint(folder, device="cpu", dtype=torch.float32):
    """A packed checkpoint as a frozen Model."""
    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)
    shape = Shape(
        vocab=c["vocab_size"],
        hidden=c["hidden_size"],
        layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        kv_heads=c["num_key_value_heads"],
        ffn=c["intermediate_size"],
        context=c["max_position_embeddings"],
        eps=c["rms_norm_eps"],
        theta=c["rope_theta"],
    )
    tensors = load_file(os.path.join(folder, "model.safetensors"))
    model = Model(shape, dtype)
    with torch.no_grad():
        for name, p in model.floats():
            p.copy_(tensors[name].float())
        for name, w in model.ternary():
            w.freeze(unpack(tensors[name]).to(device), tensors[name + "_scale"].float().to(device)[0])
    return model.to(device).eval()


def check_masters(folder):
    """How many trits of the masters differ from the packed ones: must be 0."""
    packed = load_file(os.path.join(folder, "model.safetensors"))
    master = load_file(os.path.join(folder, "master", "model.safetensors"))
    bad = 0
    for name, m in master.items():
        if name.endswith("_proj.weight"):
            bad += int((ternarize(m)[0] != unpack(packed[name])).sum())
    return bad
