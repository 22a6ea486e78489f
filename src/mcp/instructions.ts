// What a client's model reads once, before any tool: at most 2 KB, or Claude Code cuts it.

export const INSTRUCTIONS = `bitnet-gf3 runs a small ternary (BitNet b1.58) language model on this machine and reads it through GF(3): every trit is -1, 0 or +1, and a set of trits is conserved when its sum is 0 mod 3.

When to call what:
- generate_with_trace: write text. Each token gets a color and a trit of a seeded stream, and a log-probability. The embedded model ("default") writes simple stories: no source of facts. Many short jobs go into one call (prompts).
- color_at: one color of a stream. palette: a run of them (image: true adds a PNG).
- analyze_layer: how a model's ternary weights are distributed, per layer; image: true adds a picture of their trits.
- morphism_step: train a copy of a model ("world") by one step on texts and see the loss and the trits that flipped. morphism_invert: take a step back, exactly.
- balance_triad: the sum of some trits, and the trit that completes them.

Rules that hold everywhere:
- seed is an unsigned 64-bit integer. Write seeds above 9007199254740991 as a decimal or 0x string; a JSON number would lose digits. The default seed is 1069.
- The same arguments give the same result, sampling included (sample_seed).
- Token i of a trace (from 0) has the color of index i + 1.
- Large results come in pages: next says which arguments give the rest.
- A generation ends after max_seconds with finish_reason "time" and a continuation handle: call again with {"continuation": handle} to go on.
- An error result says what was wrong, what was expected and what to do; correct the arguments and call again.`;
