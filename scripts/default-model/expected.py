"""Greedy continuations of a packed checkpoint by Hugging Face transformers, in float32 on the CPU.

    python expected.py models/default        writes models/default/expected.json

The tests of the engine compare with them. `top2_margin` is the lead of the chosen logit over the next: where it is tiny,
two right engines may part.
"""

import os
import sys

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # transformers compiles the activation quantizer; eager is exact and quick here

import torch

from export import write_json

PROMPTS = [
    "Hello world",
    "Once upon a time",
    "The wind and the sun",
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Tell me a story about a fox."}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello! It is nice to meet you."},
        {"role": "user", "content": "What is gold?"},
    ],
]


def write_expected(folder, tokens=32):
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tok = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    eos = set(model.generation_config.eos_token_id)
    rows = []
    for prompt in PROMPTS:
        if isinstance(prompt, list):
            text = tok.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            ids = tok.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            prompt = text.removeprefix(tok.bos_token)
            assert ids == tok(prompt).input_ids, "the template and the tokenizer differ"
        else:
            ids = tok(prompt).input_ids
        greedy, margin, all_ids = [], [], list(ids)
        with torch.no_grad():
            for _ in range(tokens):
                top = model(torch.tensor([all_ids]), use_cache=False).logits[0, -1].topk(2)
                all_ids.append(int(top.indices[0]))
                greedy.append(all_ids[-1])
                margin.append(round(float(top.values[0] - top.values[1]), 4))
                if greedy[-1] in eos:
                    break
        rows.append(
            {"prompt": prompt, "input_ids": ids, "greedy": greedy, "top2_margin": margin, "text": tok.decode(greedy)}
        )
        print(repr(prompt), "->", repr(rows[-1]["text"]), flush=True)
    # The same through generate(), which also checks the cache and the stop tokens of generation_config.json.
    for row in rows:
        n = model.generate(torch.tensor([row["input_ids"]]), max_new_tokens=tokens, do_sample=False)
        row_ids = n[0, len(row["input_ids"]) :].tolist()
        if row_ids != row["greedy"]:
            at = next(i for i, (a, b) in enumerate(zip(row_ids, row["greedy"])) if a != b)
            print(f"generate() parts at token {at}, margin {row['top2_margin'][at]}: {row['prompt']!r}")
    write_json(
        os.path.join(folder, "expected.json"),
        {"computed_by": f"transformers {transformers.__version__}, float32, CPU", "rows": rows},
    )


if __name__ == "__main__":
    write_expected(sys.argv[1])
