// What the grouped layouts of GGUF have in common: rows of blocks, one block a group, an f16 scale somewhere in it.

export type BlockLayoutName = 'Q2_0' | 'Q2_0_G128' | 'PQ2_0' | 'PTQ1_0' | 'Q1_0' | 'TQ1_0' | 'TQ2_0';

export type BlockLayout = {
  readonly name: BlockLayoutName;
  /** Columns of a block, which share its scale. */
  readonly group: number;
  readonly blockBytes: number;
  /** Where the scale, an f16, lies in a block. */
  readonly scaleAt: number;
  /** Bytes of a block that hold base-3 digits, from its start on; 0 for other layouts. */
  readonly digitBytes: number;
  /** Bit c is set when code c can be held: 7 for trits, 15 with +2, 5 for signs alone. */
  readonly codes: number;
  /** Reads the codes of `blocks` blocks from byte `from` on into quads from byte `to` on. */
  unpack(bytes: Uint8Array, from: number, blocks: number, quads: Uint8Array, to: number): void;
  /** Writes the codes, not the scales; bytes that hold neither are left alone. Only codes that can be held. */
  pack(quads: Uint8Array, from: number, blocks: number, bytes: Uint8Array, to: number): void;
};
