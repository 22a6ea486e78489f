"""Logits of a trained model by Hugging Face transformers, its packed form and its masters: shows that both load there.

    python3 scripts/transformers-logits.py MODEL_DIR 0,5,9,2   ->  {"transformers": ..., "packed": [[...]], "masters": [[...]]}

Needs torch, accelerate and transformers 5.18 or later. test/train/transformers.test.ts compares the numbers with our engine's.
"""

import json
import os
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM

transformers.utils.logging.set_verbosity_error()
folder, ids = sys.argv[1], [int(i) for i in sys.argv[2].split(",")]


def logits(path):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].tolist()


print(
    json.dumps(
        {
            "transformers": transformers.__version__,
            "packed": logits(folder),
            "masters": logits(os.path.join(folder, "master")),
        }
    )
)
