"""Held-out loss and samples of packed checkpoints, side by side.

    python evaluate.py --heldout WORK/heldout.jsonl --out FILE.json NAME=FOLDER [NAME=FOLDER ...]

Each model reads the same documents with its own tokenizer and its own chat form, in windows of 256 tokens (the longest
context that both the first default model and its successor were trained for). Nats are summed over every token; bits per
byte divide by the UTF-8 bytes of the text, so that different tokenizers compare.
"""

import argparse
import json
import math
import os
import random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import data
from export import load_checkpoint, write_json

PLAIN = ["Once upon a time", "The old king had three sons.", "One day a little rabbit", "It was a dark night, and the"]
CHAT = [
    "Hi",
    "How are you?",
    "Who are you?",
    "What is gold?",
    "What is the capital of France?",
    "What is a river?",
    "What is another word for happy?",
    "What is 7 plus 5?",
    "Tell me a joke",
    "Tell me a story about a fox.",
    "Why is the sky blue?",
]


def chat_form(folder):
    """`eot` if the checkpoint's template closes turns with a token, `lines` if it writes plain lines."""
    with open(os.path.join(folder, "tokenizer_config.json")) as f:
        return "eot" if "<|eot_id|>" in json.load(f)["chat_template"] else "lines"


def encode(tok, form, doc):
    said = data.turns(doc)
    if said and form == "eot":
        ids, text = [0], ""
        for role, words in said:
            text += f"{role}: "
            if role == "Assistant":
                ids += tok.encode(text, add_special_tokens=False).ids
                text = ""
            text += words + "<|eot_id|>"
        return ids + tok.encode(text, add_special_tokens=False).ids
    return [0] + tok.encode(doc, add_special_tokens=False).ids + [1]


@torch.no_grad()
def nats(model, docs, window, device):
    """(sum of nats, tokens) over documents of token ids; a window keeps its predecessor's last token as its first."""
    rows = []
    for ids in docs:
        for i in range(0, len(ids) - 1, window):
            rows.append(ids[i : i + window + 1])
    rows.sort(key=len)
    total, count = 0.0, 0
    per = 64 if device == "cuda" else 8
    for i in range(0, len(rows), per):
        part = rows[i : i + per]
        width = max(map(len, part)) - 1
        x = torch.zeros(len(part), width, dtype=torch.long)
        y = torch.full((len(part), width), -100)
        for j, r in enumerate(part):
            x[j, : len(r) - 1] = torch.tensor(r[:-1])
            y[j, : len(r) - 1] = torch.tensor(r[1:])
        logits = model.logits(x.to(device)).float()
        total += float(F.cross_entropy(logits.flatten(0, 1), y.to(device).flatten(), ignore_index=-100, reduction="sum"))
        count += int((y >= 0).sum())
    return total, count


@torch.no_grad()
def generate(model, ids, limit, device, stop=(1, 2), temperature=0.0, top_p=0.9, seed=1):
    rng = torch.Generator().manual_seed(seed)
    ids, out = list(ids), []
    for _ in range(min(limit, model.shape.context - len(ids))):
        z = model.logits(torch.tensor([ids], device=device))[0, -1].float().cpu()
        if temperature == 0:
            n = int(z.argmax())
        else:
            p, order = torch.softmax(z / temperature, -1).sort(descending=True)
            p[p.cumsum(0) - p > top_p] = 0
            n = int(order[torch.multinomial(p / p.sum(), 1, generator=rng)])
        if n in stop:
            break
        ids.append(n)
        out.append(n)
    return out


def prompts(tok, form):
    for p in PLAIN:
        yield p, [0] + tok.encode(p, add_special_tokens=False).ids
    for p in CHAT:
        text = f"User: {p}<|eot_id|>Assistant: " if form == "eot" else f"User: {p}\nAssistant:"
        yield f"(chat) {p}", [0] + tok.encode(text, add_special_tokens=False).ids


def samples(model, tok, form, device, limit=90):
    rows = []
    for name, ids in prompts(tok, form):
        row = {"prompt": name}
        for kind, temperature in (("greedy", 0.0), ("sampled", 0.7)):
            text = tok.decode(generate(model, ids, limit, device, temperature=temperature), skip_special_tokens=True)
            row[kind] = text.split("\nUser:")[0] if form == "lines" else text
        rows.append(row)
    return rows


def exact_answers(model, tok, form, docs, device, limit=40):
    """{source: [right, asked]}: held-out questions whose greedy answer is the document's, to the letter.

    A fact stands in the corpus in several wordings; a held-out question asks for it in one that was not trained on.
    """
    out = {}
    for source, texts in docs.items():
        pairs = [t for t in map(data.turns, texts) if len(t) == 2 and len(t[0][1]) < 120 and len(t[1][1]) < 120][:limit]
        right = 0
        for (_, question), (_, answer) in pairs:
            text = f"User: {question}<|eot_id|>Assistant: " if form == "eot" else f"User: {question}\nAssistant:"
            ids = [0] + tok.encode(text, add_special_tokens=False).ids
            said = tok.decode(generate(model, ids, 60, device), skip_special_tokens=True)
            right += said.split("\nUser:")[0].strip() == answer
        if pairs:
            out[source] = [right, len(pairs)]
    return out


def compare(held, models, device, limit=120, window=256, with_samples=True):
    """held: {source: [document]}; models: {name: folder}."""
    docs = {s: random.Random(data.SEED).sample(d, min(limit, len(d))) for s, d in held.items()}
    for folder in models.values():
        with open(os.path.join(folder, "config.json")) as f:
            window = min(window, json.load(f)["max_position_embeddings"] - 1)
    report = {"window": window, "documents": {s: len(d) for s, d in docs.items()}, "models": {}, "samples": {}}
    for name, folder in models.items():
        model = load_checkpoint(folder, device)
        tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        form = chat_form(folder)
        by_source, sums = {}, [0.0, 0, 0]
        for source, texts in docs.items():
            size = sum(len(t.encode()) for t in texts)
            loss, count = nats(model, [encode(tok, form, t) for t in texts], window, device)
            by_source[source] = {
                "nats_per_token": round(loss / count, 4),
                "bits_per_byte": round(loss / math.log(2) / size, 4),
                "tokens": count,
                "bytes": size,
            }
            sums = [sums[0] + loss, sums[1] + count, sums[2] + size]
        mean = sum(v["bits_per_byte"] for v in by_source.values()) / len(by_source)
        report["models"][name] = {
            "nats_per_token": round(sums[0] / sums[1], 4),
            "bits_per_byte": round(sums[0] / math.log(2) / sums[2], 4),
            "bits_per_byte_mean_of_sources": round(mean, 4),
            "tokens": sums[1],
            "bytes": sums[2],
            "by_source": by_source,
        }
        if with_samples:
            report["samples"][name] = samples(model, tok, form, device)
            report["models"][name]["exact_answers"] = exact_answers(model, tok, form, docs, device)
    return report


def print_report(r):
    names = list(r["models"])
    print("bits per byte".ljust(30), *(n.rjust(10) for n in names))
    for s in r["documents"]:
        print(s.ljust(30), *(f"{r['models'][n]['by_source'][s]['bits_per_byte']:10.3f}" for n in names))
    for key in ("bits_per_byte", "bits_per_byte_mean_of_sources", "nats_per_token"):
        print(("all: " + key).ljust(30), *(f"{r['models'][n][key]:10.3f}" for n in names), flush=True)
    for n in names:
        print("exact answers of", n + ":", r["models"][n].get("exact_answers"), flush=True)
    for rows in zip(*(r["samples"].get(n, []) for n in names)):
        print("\n#", rows[0]["prompt"])
        for n, row in zip(names, rows):
            print(f"[{n} greedy] {row['greedy']}\n[{n} sampled] {row['sampled']}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--heldout", required=True)
    p.add_argument("--out")
    p.add_argument("--limit", type=int, default=120, help="documents of one source")
    p.add_argument("--no-samples", action="store_true")
    p.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    a = p.parse_args()
    held = {}
    for line in open(a.heldout, encoding="utf-8"):
        row = json.loads(line)
        held.setdefault(row["source"], []).append(row["text"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = compare(held, dict(m.split("=", 1) for m in a.models), device, a.limit, with_samples=not a.no_samples)
    print_report(report)
    if a.out:
        write_json(a.out, report)
