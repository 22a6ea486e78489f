"""Train the default model from a corpus folder and write the shipped files.

    python scripts/default-model/train.py --corpus DIR --out models/default

Steps: read and hold out, tokenizer, tokens, training, export, held-out comparison, pictures, expected continuations. See README.md beside this.
"""

import argparse
import importlib
import json
import math
import os
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import torch
from tokenizers import Tokenizer

import data
import evaluate
from export import check_masters, save_checkpoint, write_json
from model import Model, Shape
from tokenizer import train_tokenizer


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    d = Shape()
    p.add_argument("--corpus", required=True, help="folder of .txt or .txt.xz files")
    p.add_argument("--out", required=True)
    p.add_argument("--work", default=".default-model-work", help="tokens and resume state; reused when present")
    for name in ("vocab", "hidden", "layers", "heads", "kv_heads", "ffn", "context"):
        p.add_argument("--" + name.replace("_", "-"), type=int, default=getattr(d, name))
    p.add_argument("--steps", type=int, default=24500)
    p.add_argument("--batch", type=int, default=32, help="rows of `context` tokens in a step")
    p.add_argument("--lr", type=float, default=2.5e-3, help="peak learning rate")
    p.add_argument("--weight-decay", type=float, default=0.1, help="in the first half; none in the second")
    p.add_argument("--seed", type=int, default=data.SEED)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--resume", action="store_true", help="go on from the work folder's state.pt")
    p.add_argument("--stop-after", type=float, default=0, help="seconds; saves the state and ends, for --resume")
    p.add_argument("--compare", metavar="FOLDER", help="a packed checkpoint to compare with on the held-out text")
    p.add_argument("--docs", metavar="FOLDER", help="history, evaluation and pictures go there (default: the work folder)")
    p.add_argument("--probe", action="store_true", help="train only: print speed and held-out loss, write nothing")
    return p.parse_args()


def prepare(a):
    """Tokenizer, tokens and held-out text into the work folder, once. Returns the tokenizer and {source: [document]}."""
    os.makedirs(a.work, exist_ok=True)
    ready = os.path.join(a.work, "heldout.jsonl")
    tok_path = os.path.join(a.work, "tokenizer.json")
    if not os.path.exists(ready):
        t0 = time.time()
        train, held = data.split_held_out(data.read_corpus(a.corpus))
        dropped = data.decontaminate(train, held)
        print(f"read in {time.time() - t0:.0f} s; dropped for overlap with held-out text: {dropped}", flush=True)
        tok = train_tokenizer(data.tokenizer_texts(train), a.vocab)
        tok.save(tok_path)
        print(f"tokenizer at {time.time() - t0:.0f} s", flush=True)
        data.tokenize(tok, train, a.work)
        with open(ready, "w", encoding="utf-8") as f:  # written last: it marks the folder as complete
            for source, docs in held.items():
                for d in docs:
                    f.write(json.dumps({"source": source, "id": data.digest(d), "text": d}) + "\n")
        print(f"tokens at {time.time() - t0:.0f} s", flush=True)
    held = {}
    with open(ready, encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            held.setdefault(row["source"], []).append(row["text"])
    return Tokenizer.from_file(tok_path), held


def schedule(progress, peak, decay):
    """(learning rate, weight decay) at a part [0, 1] of the training: the two stages of the BitNet b1.58 notes.

    Stage one falls from the peak to 0.55 of it; at half time the rate drops to 0.35 and goes to zero, and the weight
    decay, which keeps latents near the rounding thresholds, ends, so that the trits settle.
    """
    warm = min(1.0, (progress + 1e-9) / 0.015)
    if progress < 0.5:
        return peak * warm * (1 - 0.45 * progress / 0.5), decay
    return peak * 0.35 * (0.02 + 0.98 * (1 - (progress - 0.5) / 0.5)), 0.0


def held_rows(tok, held, context, device, limit=64):
    """A few held-out rows for the loss curve, the same share of every source."""
    rows = []
    for source, docs in held.items():
        ids = [i for d in docs[:40] for i in evaluate.encode(tok, "eot", d)]
        for i in range(0, min(len(ids) - context - 1, 4 * context), context):
            rows.append(ids[i : i + context + 1])
    if not rows:  # a corpus too small for a full row
        ids = [i for docs in held.values() for d in docs for i in evaluate.encode(tok, "eot", d)]
        rows = [(ids * (context // max(len(ids), 1) + 2))[: context + 1]]
    rows = torch.tensor(rows[:limit], device=device)
    return rows[:, :-1], rows[:, 1:]


def train(a, tok, held):
    """Returns the model and its history."""
    t0 = time.time()
    torch.manual_seed(a.seed)
    cuda = a.device.startswith("cuda")
    shape = Shape(tok.get_vocab_size(), a.hidden, a.layers, a.heads, a.kv_heads, a.ffn, a.context)
    model = Model(shape, torch.bfloat16 if cuda else torch.float32).to(a.device)
    ternary = sum(w.latent.numel() for _, w in model.ternary())
    floats = sum(p.numel() for _, p in model.floats())
    print(f"{ternary / 1e6:.2f} M ternary, {floats / 1e6:.2f} M float weights, vocabulary {shape.vocab}", flush=True)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    gains = [p for p in model.parameters() if p.ndim == 1]
    opt = torch.optim.AdamW(
        [{"params": matrices}, {"params": gains}], lr=a.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=cuda
    )
    history = {"shape": shape.json(), "steps": a.steps, "tokens_per_step": a.batch * a.context, "log": [], "trits": []}
    stream = data.Stream(a.work, a.context, a.device, seed=a.seed)
    print("tokens of each source, millions:", {n: round(s / 1e6, 2) for n, s in zip(stream.names, stream.sizes)}, flush=True)
    first, spent = 0, 0.0
    state = os.path.join(a.work, "state.pt")
    if a.resume and os.path.exists(state):
        s = torch.load(state, map_location=a.device, weights_only=False)
        model.load_state_dict(s["model"])
        opt.load_state_dict(s["opt"])
        first, spent, history = s["step"], s["seconds"], s["history"]
        stream.seen = s["seen"]
        stream.rng.manual_seed(a.seed + first)
    hx, hy = held_rows(tok, held, a.context, a.device)
    run = model if a.no_compile else torch.compile(model)
    every = max(1, a.steps // 20)
    log_every = max(1, a.steps // 200)
    loss_sum, loss_n, mark, mark_step, last_trits = 0.0, 0, None, first, None

    def record(step):
        nonlocal last_trits
        trits = torch.cat([w()[0].detach().to(torch.int8).flatten() for _, w in model.ternary()])
        changed = float((trits != last_trits).float().mean()) if last_trits is not None else None
        last_trits = trits
        with torch.no_grad():
            losses = [float(model(hx[i : i + 8], hy[i : i + 8])) for i in range(0, len(hx), 8)]
        loss = sum(losses) / len(losses)
        history["trits"].append({"step": step, "counts": model.trit_counts(), "changed": changed, "held_out_loss": loss})
        return loss

    if first == 0:
        record(0)
    step = first
    while step < a.steps:
        progress = step / a.steps
        lr, wd = schedule(progress, a.lr, a.weight_decay)
        for g in opt.param_groups:
            g["lr"] = lr
        opt.param_groups[0]["weight_decay"] = wd
        x, y = stream.batch(a.batch, progress)
        loss = run(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        loss_sum, loss_n, step = loss_sum + loss.detach(), loss_n + 1, step + 1
        if step % log_every == 0 or step == a.steps:
            value = float(loss_sum) / loss_n
            loss_sum, loss_n = 0.0, 0
            if not math.isfinite(value):
                raise SystemExit(f"the loss is not finite at step {step}")
            now = time.time()
            speed = (step - mark_step) * a.batch * a.context / (now - mark) if mark else 0
            mark, mark_step = now, step
            history["log"].append({"step": step, "loss": value, "lr": lr, "tokens_per_second": round(speed)})
            if step % (log_every * 10) == 0 or step == a.steps or step == log_every * 2:
                print(f"step {step} of {a.steps}: loss {value:.3f}, rate {lr:.1e}, {speed / 1e6:.2f} M tokens/s, {spent + now - t0:.0f} s", flush=True)
        stop = a.stop_after and time.time() - t0 > a.stop_after
        if step % every == 0 or step == a.steps:
            print(f"step {step}: held-out {record(step):.4f}, trits changed since the last mark {history['trits'][-1]['changed']}", flush=True)
            mark = None
        if not a.probe and (stop or (step % (2 * every) == 0 and step < a.steps)):
            seconds = spent + time.time() - t0
            torch.save({"model": model.state_dict(), "opt": opt.state_dict(), "step": step, "seconds": seconds, "history": history, "seen": stream.seen}, state + ".part")
            os.replace(state + ".part", state)
        if stop:
            return None, history
    history["seconds"] = round(spent + time.time() - t0, 1)
    history["tokens_trained"] = a.steps * a.batch * a.context
    history["epochs"] = {n: round(s / max(size, 1), 1) for n, s, size in zip(stream.names, stream.seen, stream.sizes)}
    history["corpus_tokens"] = dict(zip(stream.names, stream.sizes))
    history["device"] = torch.cuda.get_device_name() if cuda else "CPU"
    history["recipe"] = {k: getattr(a, k) for k in ("lr", "weight_decay", "batch", "context", "steps", "seed")}
    return model, history


def write_compact(path, value):
    """One line for each top-level key: long number lists stay readable as a diff and small."""
    with open(path, "w", encoding="utf-8") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n}\n")


def optional(module, function, argument):
    """The last steps need packages that training does not: without them say so and leave the step for later."""
    try:
        getattr(importlib.import_module(module), function)(argument)
    except ImportError as e:
        print(f"not done: {module}.py ({e}); run it by itself where that is installed", flush=True)


def main():
    a = arguments()
    tok, held = prepare(a)
    model, history = train(a, tok, held)
    if a.probe or model is None:
        return
    save_checkpoint(model, tok, a.out)
    bad = check_masters(a.out)
    if bad:
        raise SystemExit(f"{bad} trits of the masters differ from the packed ones")
    docs = a.docs or a.work
    os.makedirs(docs, exist_ok=True)
    write_compact(os.path.join(docs, "history.json"), history)
    # Which documents were held out, by the first 12 digits of their SHA-256.
    write_compact(os.path.join(docs, "heldout-ids.json"), {s: sorted(map(data.digest, d)) for s, d in held.items()})
    models = {"new": a.out}
    if a.compare:
        models = {"old": a.compare, "new": a.out}
    report = evaluate.compare(held, models, a.device)
    evaluate.print_report(report)
    write_json(os.path.join(docs, "evaluation.json"), report)
    optional("picture", "draw", docs)  # needs matplotlib
    optional("expected", "write_expected", a.out)  # needs transformers and accelerate
    print(f"done: {history['tokens_trained'] / 1e6:.0f} M tokens in {history['seconds']} s on {history['device']}")


if __name__ == "__main__":
    main()
