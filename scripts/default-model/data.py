"""From a folder of text files to a stream of training rows.

A corpus file is `NAME.txt` or `NAME.txt.xz`, UTF-8, documents separated by a line `<|endoftext|>`. A document whose
lines begin with `User: ` and `Assistant: ` is a conversation.
"""

import glob
import hashlib
import json
import lzma
import multiprocessing
import os
import random
import re
import zlib

import numpy as np
import torch

SEED = 1069

# Share of the training tokens of each source, early and late. The corpus holds far more old novels than plain stories
# and answers; the late mix, seen while the learning rate falls to zero, leans to what the model is for.
# Sources that are not named here share what the others leave, by size.
MIX = {
    "01_stories_africa_india": (0.015, 0.025),
    "02_fairytaleqa_stories": (0.025, 0.025),
    "03_fairytaleqa_qa": (0.050, 0.045),
    "04_gutenberg_children": (0.270, 0.200),
    "05_gutenberg_novels_simple": (0.290, 0.140),
    "07_dialog_topicalchat": (0.040, 0.040),
    "08_dialog_taskmaster4": (0.006, 0.006),
    "10_qa_gsm8k": (0.025, 0.025),
    "11_qa_chitchat": (0.005, 0.014),
    "12_facts_factbook": (0.035, 0.070),
    "13_facts_wordnet": (0.050, 0.090),
    "14_facts_elements": (0.010, 0.020),
    "15_synth_chat": (0.060, 0.100),
    "15b_synth_stories": (0.115, 0.190),
    "16_tinystories_samples": (0.004, 0.010),
}
LATE = 0.6  # the late mix begins at this part of the training

# Short question-answer sources: each document is written out in several forms (see `variants`).
SHORT = ("08_", "11_", "12_", "13_", "14_", "15_")
# Prose whose held-out sentences must not stand in another file too (fairy tales do, in 02, 03 and 04).
PROSE = ("01_", "02_", "03_", "04_", "05_", "16_")
RUDE = re.compile(r"asshole|bitch|\bfuck|\bshit", re.I)


def read_corpus(folder):
    """{source: [document]}"""
    out = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.txt")) + glob.glob(os.path.join(folder, "*.txt.xz"))):
        name = os.path.basename(path).split(".txt")[0]
        opener = lzma.open if path.endswith(".xz") else open
        with opener(path, "rt", encoding="utf-8") as f:
            docs = (d.strip() for d in f.read().split("<|endoftext|>"))
            out[name] = [d for d in docs if len(d) >= 20 and not RUDE.search(d[:4000])]
    if not out:
        raise SystemExit(f"no .txt or .txt.xz file in {folder}")
    return out


def turns(doc):
    """[(role, text)] of a conversation, [] of anything else."""
    if not doc.startswith(("User: ", "Assistant: ")):
        return []
    parts = re.split(r"^(User|Assistant): ", doc, flags=re.M)
    return [(parts[i], parts[i + 1].strip()) for i in range(1, len(parts), 2)]


def group_key(source, doc):
    """Documents with one key are held out together: all questions about one passage are."""
    if source.startswith("03_"):
        said = turns(doc)
        return said[0][1].rsplit("\n", 1)[0] if said else doc
    return doc


def split_held_out(corpus, share=0.01):
    """(train, held) by whole documents, the same for every run."""
    train, held = {}, {}
    for source, docs in corpus.items():
        keys = sorted({group_key(source, d) for d in docs})
        rng = random.Random(SEED + zlib.crc32(source.encode()))
        out = set(rng.sample(keys, max(1, round(len(keys) * share))))
        train[source] = [d for d in docs if group_key(source, d) not in out]
        held[source] = [d for d in docs if group_key(source, d) in out]
    return train, held


def sentences(doc):
    """Normalized sentences long enough to tell a text by."""
    for s in re.split(r"(?<=[.!?])[\"']?\s+", doc):
        s = re.sub(r"[^a-z]+", " ", s.lower()).strip()
        if len(s) >= 50:
            yield s


_known = set()


def _overlaps(doc):
    hits = 0
    for s in sentences(doc):
        hits += s in _known
        if hits >= 2:
            return True
    return False


def decontaminate(train, held):
    """Drop training prose that shares two long sentences with a held-out document. Returns {source: dropped}."""
    _known.clear()
    for source, docs in held.items():
        if source.startswith(PROSE):
            for d in docs:
                _known.update(sentences(d))
    dropped = {}
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for source, docs in train.items():
            if source.startswith(PROSE):
                bad = pool.map(_overlaps, docs, chunksize=256)
                train[source] = [d for d, b in zip(docs, bad) if not b]
                dropped[source] = sum(bad)
    return dropped


def variants(source, docs, rng):
    """Short question-answer documents in three forms: as they are, asked in lower case, and joined into longer talks."""
    if not source.startswith(SHORT):
        return docs
    if source.startswith("14_"):  # our own wording: people ask "What is gold?"
        docs = docs + [re.sub(r"^User: Tell me about (\w+)\.", r"User: What is \1?", d) for d in docs if "Tell me about" in d]
    lower = []
    for d in docs:
        said = turns(d)
        if said:
            lower.append("\n".join(f"{r}: {x.lower().rstrip('?.!') if r == 'User' else x}" for r, x in said))
    talks = [d for d in docs if turns(d)]
    rng.shuffle(talks)
    joined, i = [], 0
    while i < len(talks):
        n = rng.randint(2, 4)
        joined.append("\n".join(talks[i : i + n]))
        i += n
    return docs + joined + rng.sample(lower, len(lower) // 4)


def pieces(doc, rng):
    """The document as strings to be tokenized one by one.

    A prompt ends with `Assistant: `, so its last token is the space alone; the reply must be tokenized apart from it.
    Earlier turns of a talk come both ways: apart (a kept cache) and joined (a talk that was rendered again).
    """
    said = turns(doc)
    if not said or rng.random() < 0.08:  # a few talks stay plain lines, for prompts typed that way
        return [doc]
    out, text = [], ""
    for i, (role, words) in enumerate(said):
        text += f"{role}: "
        if role == "Assistant" and (i >= len(said) - 2 or rng.random() < 0.5):
            out.append(text)
            text = ""
        text += words + "<|eot_id|>"
    return out + [text]


def encode_documents(tok, docs, rng):
    """[uint16 array] of the documents: begin_of_text, text, end_of_text."""
    flat, owner = [], []
    for i, d in enumerate(docs):
        for p in pieces(d, rng):
            flat.append(p)
            owner.append(i)
    ids = [[0] for _ in docs]
    for i in range(0, len(flat), 50000):
        for o, e in zip(owner[i : i + 50000], tok.encode_batch(flat[i : i + 50000], add_special_tokens=False)):
            ids[o] += e.ids
    return [np.array(x + [1], dtype=np.uint16) for x in ids]


def tokenizer_texts(train, budget=20_000_000):
    """Text for the tokenizer: everything, but at most `budget` bytes of one source, so that the novels do not rule it."""
    for source, docs in train.items():
        used = 0
        for d in docs:
            if used > budget:
                break
            used += len(d)
            yield d


def tokenize(tok, train, folder):
    """Write tokens.npy, docs.npy (start, length, source) and sources.json."""
    rng = random.Random(SEED)
    all_ids, rows, at, names = [], [], 0, sorted(train)
    for s, source in enumerate(names):
        for ids in encode_documents(tok, variants(source, train[source], rng), rng):
            all_ids.append(ids)
            rows.append((at, len(ids), s))
            at += len(ids)
    np.save(os.path.join(folder, "tokens.npy"), np.concatenate(all_ids))
    np.save(os.path.join(folder, "docs.npy"), np.array(rows, dtype=np.int64))
    with open(os.path.join(folder, "sources.json"), "w") as f:
        json.dump(names, f)


def digest(doc):
    return hashlib.sha256(doc.encode()).hexdigest()[:12]


class Stream:
    """Rows of `context + 1` tokens drawn by the mix.

    The documents of all sources are shuffled anew for every block of rows: with fixed neighbours a model would learn to
    recall the next document instead of reading the question. Half of the rows begin at a document's start, as a prompt
    does.
    """

    def __init__(self, folder, context, device, block_tokens=1 << 24, seed=SEED):
        self.ids = torch.from_numpy(np.load(os.path.join(folder, "tokens.npy")).astype(np.int32)).to(device)
        docs = torch.from_numpy(np.load(os.path.join(folder, "docs.npy"))).to(device)
        self.start, self.length, source = docs[:, 0], docs[:, 1], docs[:, 2]
        with open(os.path.join(folder, "sources.json")) as f:
            self.names = json.load(f)
        self.of = [torch.nonzero(source == i).flatten() for i in range(len(self.names))]
        self.sizes = [int(self.length[d].sum()) for d in self.of]
        self.context, self.device, self.block = context, device, max(block_tokens, 4 * context)
        self.rng = torch.Generator(device=device).manual_seed(seed)
        self.rows, self.at = None, 0
        self.seen = [0] * len(self.names)

    def shares(self, progress):
        late = 1 if progress >= LATE else 0
        known = [MIX[n][late] if n in MIX else None for n in self.names]
        rest = max(1 - sum(k for k in known if k is not None), 0.0 if None not in known else 0.05)
        free = sum(s for s, k in zip(self.sizes, known) if k is None) or 1
        raw = [rest * s / free if k is None else k for s, k in zip(self.sizes, known)]
        return [r / sum(raw) for r in raw]

    def refill(self, progress):
        chosen = []
        for i, share in enumerate(self.shares(progress)):
            want = int(share * self.block)
            self.seen[i] += want
            while want > 0:
                docs = self.of[i][torch.randperm(len(self.of[i]), generator=self.rng, device=self.device)]
                total = self.length[docs].cumsum(0)
                n = int(torch.searchsorted(total, torch.tensor(want, device=self.device))) + 1
                chosen.append(docs[:n])
                want -= int(total[min(n, len(docs)) - 1])
        docs = torch.cat(chosen)
        docs = docs[torch.randperm(len(docs), generator=self.rng, device=self.device)]
        length = self.length[docs]
        end = length.cumsum(0)
        begin = end - length
        total = int(end[-1])
        stream = self.ids[torch.repeat_interleave(self.start[docs] - begin, length) + torch.arange(total, device=self.device)]
        t = self.context
        base = torch.arange(0, total - t - 1, t, device=self.device)
        near = begin[torch.searchsorted(begin, base, right=True) - 1]
        snap = (base - near <= t) & (torch.rand(len(base), generator=self.rng, device=self.device) < 0.5)
        base = torch.where(snap, near, base)
        base = base[torch.randperm(len(base), generator=self.rng, device=self.device)]
        self.rows = stream[base[:, None] + torch.arange(t + 1, device=self.device)]
        self.at = 0

    def batch(self, n, progress):
        if self.rows is None or self.at + n > len(self.rows):
            self.refill(progress)
        if n > len(self.rows):
            raise SystemExit("the batch is larger than a block of the stream")
        rows = self.rows[self.at : self.at + n].long()
        self.at += n
        return rows[:, :-1], rows[:, 1:]
