"""What Hugging Face's tokenizers (Python, in Rust) makes of tokenizer files and texts: one JSON object a line in, one out.

in:  {"tokenizer": {...}, "texts": [...], "ids": [[...]], "plain": bool}
out: {"error": "..."} or {"ids": [[...] | null], "pieces": [[...]], "decoded": ["..."], "shown": ["..."]}

null stands for a text that is refused. "pieces" only where there is a pre-tokenizer; "shown" is decoding without special
tokens; with "plain", the pre-tokenizer is asked alone.
"""

import json
import sys

from tokenizers import Tokenizer


def attempt(work):
    try:
        return work()
    except BaseException as error:  # the reference panics on some
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return None


for line in sys.stdin:
    case = json.loads(line)
    try:
        tokenizer = Tokenizer.from_str(json.dumps(case["tokenizer"]))
    except BaseException as error:
        print(json.dumps({"error": str(error)[:300]}), flush=True)
        continue
    out = {"ids": [], "pieces": [], "decoded": [], "shown": []}
    for text in case["texts"]:
        out["ids"].append(attempt(lambda: tokenizer.encode(text, add_special_tokens=False).ids))
        if case.get("plain") and tokenizer.pre_tokenizer is not None:
            out["pieces"].append(attempt(lambda: [p for p, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]))
    for ids in case.get("ids", []):
        out["decoded"].append(attempt(lambda: tokenizer.decode(ids, skip_special_tokens=False)))
        out["shown"].append(attempt(lambda: tokenizer.decode(ids, skip_special_tokens=True)))
    print(json.dumps(out), flush=True)
