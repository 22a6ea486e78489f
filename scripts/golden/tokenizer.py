"""Ground truth for src/tokenizer, computed by the reference libraries.

Trains four small tokenizers on tokenizer-corpus.txt, in the three styles that BitNet models use, and records what
Hugging Face's tokenizers and Google's sentencepiece make of a few hundred strings and id lists; and what Python's
jinja2 makes of chat templates. Everything is seeded; the corpus and the strings are our own.

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.2 sentencepiece==0.2.2 jinja2==3.1.6
    venv/bin/python scripts/golden/tokenizer.py            # writes test/golden/tokenizer
"""

import hashlib
import io
import json
import pathlib
import random
import unicodedata

import jinja2
import sentencepiece
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE.parent.parent / "test" / "golden" / "tokenizer"
CORPUS = (HERE / "tokenizer-corpus.txt").read_text(encoding="utf-8")
LINES = CORPUS.splitlines(keepends=True)

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def llama3() -> Tokenizer:
    """Byte-level BPE, Llama 3's split, ignore_merges, BOS by template."""
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=[]
        ),
    )
    names = ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eom_id", "eot_id", "reserved_0"]
    t.add_special_tokens([AddedToken(f"<|{name}|>", normalized=False, special=True) for name in names])
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|> $B",
                special_tokens=[("<|begin_of_text|>", bos)],
            ),
        ]
    )
    return t


def neox() -> Tokenizer:
    """Byte-level BPE, GPT-2's split inside ByteLevel, NFC, runs of spaces as ordinary added tokens."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=800,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
            special_tokens=["<|endoftext|>", "<|padding|>"],
        ),
    )
    t.add_tokens([AddedToken(" " * n, normalized=True, special=False) for n in range(12, 1, -1)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def odd() -> Tokenizer:
    """As neox, with every flag of added tokens, digits split, a prefix space, and an unknown token for lack of an alphabet."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)]
    )
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(
        [line for line in LINES if line.isascii()],
        trainers.BpeTrainer(vocab_size=400, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"]),
    )
    t.add_tokens(
        [
            AddedToken("word", single_word=True, normalized=False),
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True, normalized=False),
            AddedToken("<both>", lstrip=True, rstrip=True, normalized=True),
            AddedToken("<right><right>", normalized=False),
        ]
    )
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1), trim_offsets=False, add_prefix_space=False)
    return t


def sentencepiece_model(**options) -> bytes:
    """Llama 2's settings: BPE, byte fallback, no normalization, digits apart."""
    out = io.BytesIO()
    settings = dict(
        model_type="bpe",
        vocab_size=800,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        character_coverage=0.98,
        allow_whitespace_only_pieces=True,
        unk_surface=" \u2047 ",
        num_threads=1,
        minloglevel=2,
    )
    settings.update(options)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines()), model_writer=out, **settings
    )
    return out.getvalue()


def llama2(processor: sentencepiece.SentencePieceProcessor) -> Tokenizer:
    """The same vocabulary as tokenizer.json: merges are all pairs of pieces that make a piece, best score first."""
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    ordinary = {p for i, p in enumerate(pieces) if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))}
    merges = []
    for piece in ordinary:
        found = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in ordinary and piece[i:] in ordinary]
        merges += [(processor.get_score(vocab[piece]), pair) for pair in found]
    merges.sort(key=lambda m: (-m[0], vocab[m[1][0]], vocab[m[1][1]]))
    t = Tokenizer(models.BPE(vocab, [m[1] for m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<unk>", "<s>", "</s>")])
    t.add_special_tokens([AddedToken("<pad>", normalized=False, special=True)])
    t.add_tokens([AddedToken("<tool>", normalized=False, special=False)])
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])]
    )
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return t


def strings() -> list[str]:
    rng = random.Random(1069)
    fixed = [
        "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\t\n", "\r\n", "\r", " \n ", "\n \n", "a\n", "\na", "a \n b", "  a", "a  ",
        "a  b", "a   b", "a            b", "a             b", " " * 40, "x" + " " * 25 + "y", "\u00a0", "\u3000a", "a\u2003b", "\u200b", "\ufeff",
        "\ufeffHello", "a\ufeff b", "\u0085", "a\u0085b", "a \u0085 b", "\u2028", "a\u2029b", "\u000b\u000c", "\x00", "a\x00b", "\x1b[31m", "\x7f",
        "Hello", "Hello world", " Hello world", "Hello, world!", "HELLO", "hElLo", "I'm", "I'M", "I'll", "I'LL", "we'Ve", "'s", "'S", "'tis", "don't", "DON'T", "y'all're",
        "'\u017f", "it\u2019s", "1", "12", "123", "1234", "12345", "3.14159", "1,000,000", "0x1F", "\u00bd", "\u2460\u2461", "\u0664\u0662", "x\u00b2", "10:30", "1st 2nd",
        "a.b", "...", "....!!!???", "!!!!!!", "-->", "==", "!=", "=>", "a_b_c", "snake_case_name", "camelCaseName", "#hashtag @name", "$5.00", "50%", "a/b\\c", "~`^",
        "for (let i = 0; i < 10; i++) {\n\treturn i;\n}\n", "def f(x):\n    return x\n\n\nclass A:\n    pass\n", "<div>\n  <p>x</p>\n</div>", "{\"a\": [1, 2, {\"b\": null}]}",
        "```python\nprint('x')\n```", "| a | b |\n|---|---|\n| 1 | 2 |", "# Title\n\n- one\n- two\n", "https://example.org/a?b=c&d=e", "mail@example.org",
        "F\u00fchrer", "Stra\u00dfe", "na\u00efve", "cafe\u0301", "caf\u00e9", "e\u0301e\u0301", "\u1e9b\u0323", "A\u030a", "\u212b", "\ufb01", "\u0301a", "ﷺ", "İi", "Ⅷ",
        "Кошка спит", "НЕЩО на Български", "Ελληνικά", "日本語", "我想在apple工作1314151天～", "你好，世界！", "カタカナ", "ｶﾀｶﾅ", "한국어", "ᄒ\u1161\u11ab", "العربية", "עברית", "ไทย", "हिन्दी", "தமிழ்",
        "កាន់តែពិសេសអាចខលចេញ", "𝒳𝓎", "𐍈", "𠮷野家", "🐸", "🐸🐸", "a🐸b", "👩‍🌾", "🏳️‍🌈", "👍🏽", "🇩🇪", "☺️", "☺", "🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅", "\U0001f9ff",
        "▁", "▁▁", "a▁b", " ▁ ", "▁Hello", "Ġ", "ĠHello", "Ċ", "\u0120\u010a", "<0x41>", "<0x0A>", "a<0xE4>b", "⁇", " \u2047 ", "\ufffd", "a\ufffdb", "\ufffe", "\U0010ffff",
        "<|begin_of_text|>", "<|begin_of_text|>Hello", "Hello<|eot_id|>", "a<|eot_id|>b", "a <|eot_id|> b", "<|eot_id|><|eot_id|>", "<|eot_id|", "|eot_id|>", "<|EOT_ID|>", "<|reserved_0|>x",
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|padding|>", "<s>", "</s>", "<s>Hello</s>", "a <s> b", "<unk>", "a<unk>b", "<pad>",
        "x<pad> y", "<tool>", "call <tool> now", "call<tool>now", "<tool><tool>", "[INST] Hi [/INST]", "<s>[INST] Hi [/INST] Yo </s><s>[INST] Bye [/INST]",
        "word", "words", "sword", "a word here", "word word", "word.", "(word)", "_word", "word2", "éword", "word\u0301", "<left>", "a <left> b", "a  \n<left>b", "<right>  b", "a<right> \t b", " <both> ", "x  <both>  y",
        "<right><right> z", "<right> <right>", "<left>word", "\u3000<left>\u3000<right>\u3000", "User: How are you?<|eot_id|>Assistant: ", "System: You are helpful.",
    ]
    alphabet = (
        list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") * 2
        + list("0123456789") * 2
        + [" "] * 40
        + list("\n\n\n\t\r.,;:!?'\"()[]{}<>|/\\-_+=*&^%$#@~`")
        + list("äöüßéèñçøåÄÖкошкамышьθάλασα猫在窗台上睡觉日本語한국어القطةबिल्ली")
        + ["🐸", "👍🏽", "👩‍🌾", "\u0301", "\u00a0", "\u200d", "\ufeff", "\u0085", "▁", "𝒳"]
    )
    words = CORPUS.split()
    mixed = []
    for _ in range(60):
        mixed.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 60))))
    for _ in range(30):
        mixed.append(" ".join(rng.choice(words) for _ in range(rng.randint(1, 12))))
    specials = ["<|eot_id|>", "<s>", "</s>", "<pad>", "<tool>", "<|endoftext|>", "   ", "word", "<left>", "<right>", "<both>", "\n", " "]
    for _ in range(40):
        mixed.append("".join(rng.choice(specials + words) for _ in range(rng.randint(2, 8))))
    return fixed + mixed


def id_lists(size: int, byte_ids: list[int], special_ids: list[int], seed: int) -> list[list[int]]:
    """Random ids: any token, runs of bytes (cut and broken characters), specials in between."""
    rng = random.Random(seed)
    lists = []
    for i in range(80):
        out = []
        for _ in range(rng.randint(1, 14)):
            kind = rng.random()
            if kind < 0.5 and byte_ids:
                out += rng.choices(byte_ids, k=rng.randint(1, 5))
            elif kind < 0.6 and special_ids:
                out.append(rng.choice(special_ids))
            else:
                out.append(rng.randrange(size))
        lists.append(out)
    return lists


def char_ids(t: Tokenizer, rng: random.Random) -> list[list[int]]:
    """Ids of real text, cut in the middle of characters."""
    out = []
    for text in ("猫在🐸窗台", "é🏳️‍🌈x", " नमस्ते दुनिया", "▁𝒳 𐍈"):
        ids = t.encode(text, add_special_tokens=False).ids
        out += [ids, ids[1:], ids[:-1], ids[2:-2]]
        for _ in range(3):
            a = rng.randrange(len(ids))
            out.append(ids[:a] + ids[a + 1 :])
    return [ids for ids in out if ids]


def record(t: Tokenizer, texts: list[str], seed: int) -> dict:
    size = t.get_vocab_size()
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    byte_level = isinstance(t.decoder, decoders.ByteLevel)
    byte_ids = [i for i in range(size) if (t.id_to_token(i) in alphabet if byte_level else t.id_to_token(i).startswith("<0x"))]
    added = sorted(t.get_added_tokens_decoder())
    lists = id_lists(size, byte_ids, added, seed) + char_ids(t, random.Random(seed))
    return {
        "ids": [t.encode(text, add_special_tokens=False).ids for text in texts],
        "idsWithSpecial": [t.encode(text).ids for text in texts[:60]],
        "decode": [
            [ids, t.decode(ids, skip_special_tokens=False), t.decode(ids, skip_special_tokens=True)] for ids in lists
        ],
    }


def record_pieces(p: sentencepiece.SentencePieceProcessor, texts: list[str], seed: int) -> dict:
    size = p.get_piece_size()
    byte_ids = [i for i in range(size) if p.is_byte(i)]
    ordinary = [i for i in range(size) if not p.is_control(i) and not p.is_unknown(i)]
    rng = random.Random(seed)
    lists = [
        [rng.choice(byte_ids if rng.random() < 0.5 else ordinary) for _ in range(rng.randint(1, 14))] for _ in range(80)
    ]
    return {"ids": [p.encode(text) for text in texts], "decode": [[ids, p.decode(ids)] for ids in lists]}


TEMPLATES = {
    "bitnet": "{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}{{ message['role'] | capitalize }}: {{ message['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}",
    "llama3": "{{ bos_token }}\n{%- for message in messages %}\n    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}\n",
    "falcon3": "{% for message in messages %}\n{% if not loop.first %}{{ '\n' }}{% endif %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\n{{ '\n<|assistant|>\n' }}\n{% endif %}",
    "chatml": "{%- for message in messages %}\n{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n{{- '<|im_start|>assistant\n' }}\n{%- endif %}",
    "llama2": "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' }}{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
    "tools": "{%- if tools %}{{- 'Tools:\n' }}{%- for tool in tools %}{{- tool | tojson }}{{- '\n' }}{%- endfor %}{%- endif %}{%- for message in messages %}{{- message.role ~ ': ' ~ message.content ~ '\n' }}{%- endfor %}",
}

CONVERSATIONS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}, {"role": "user", "content": "Bye"}],
    [{"role": "user", "content": "  spaces around \n"}, {"role": "assistant", "content": "línea 1\nlínea 2 🐸"}],
]


def chats() -> list[dict]:
    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False}
    out = []
    for name, source in TEMPLATES.items():
        for messages in CONVERSATIONS:
            for prompt in (True, False):
                tools = [{"type": "function", "function": {"name": "now", "parameters": {}}}] if name == "tools" else None
                text = environment.from_string(source).render(
                    messages=messages, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>", tools=tools
                )
                out.append({"template": name, "messages": messages, "tools": tools, "addGenerationPrompt": prompt, "text": text})
    return out


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    texts = strings()
    model = sentencepiece_model()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    # A second model with user-defined symbols and the trainer's white space clean-up.
    other = sentencepiece_model(
        vocab_size=700, user_defined_symbols=["<tool>", "<tool><tool>", "lighthouse"], remove_extra_whitespaces=True
    )
    other_processor = sentencepiece.SentencePieceProcessor(model_proto=other)
    built = {"llama3": llama3(), "neox": neox(), "odd": odd(), "llama2": llama2(processor)}
    cases = {"texts": texts}
    written = {}

    def write(name: str, data: bytes) -> None:
        path = OUT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        written[name] = hashlib.sha256(data).hexdigest()

    for i, (name, t) in enumerate(built.items()):
        write(f"{name}/tokenizer.json", json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")).encode())
        cases[name] = record(t, texts, 100 + i)
    # Not trained here: the first embedded model's tokenizer, and what transformers made of it (expected.json).
    first = OUT / "first-model"
    cases["first-model"] = record(Tokenizer.from_file(str(first / "tokenizer.json")), texts, 300)
    for path in sorted(first.iterdir()):
        written[f"first-model/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write("sentencepiece/tokenizer.model", model)
    write("sentencepiece-symbols/tokenizer.model", other)
    cases["sentencepiece"] = record_pieces(processor, texts, 200)
    cases["sentencepiece-symbols"] = record_pieces(other_processor, texts, 201)
    write("unigram/tokenizer.model", sentencepiece_model(model_type="unigram", vocab_size=400, byte_fallback=False, allow_whitespace_only_pieces=False))
    write("cases.json", (json.dumps(cases, ensure_ascii=True, separators=(",", ":")) + "\n").encode())
    write("chats.json", (json.dumps({"templates": TEMPLATES, "chats": chats()}, ensure_ascii=True, indent=1) + "\n").encode())
    origin = {
        "what": "small tokenizers trained on our own corpus, and what the reference libraries make of texts and ids",
        "command": "python scripts/golden/tokenizer.py",
        "libraries": {"tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__, "jinja2": jinja2.__version__},
        "unicode": unicodedata.unidata_version,
        "sha256": written,
    }
    (OUT / "ORIGIN.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
