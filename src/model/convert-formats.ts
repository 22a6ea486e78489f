// What `convert` writes. Apart, so that --help need not load what writes it.

/**
 * `hf`: folder in Hugging Face layout, packed, scales multiplied (BitNet). `hf-unpacked`: the same with trits as floats.
 * `mlx`: folder with MLX's 2-bit packs. `gguf-*`: one .gguf with matrices of that type.
 */
export const CONVERT_FORMATS = [
  'hf',
  'hf-unpacked',
  'mlx',
  'gguf-i2_s',
  'gguf-tq2_0',
  'gguf-tq1_0',
  'gguf-q2_0',
  'gguf-pq2_0',
  'gguf-ptq1_0',
] as const;
export type ConvertFormat = (typeof CONVERT_FORMATS)[number];

/** Formats that are a folder, not a .gguf file. */
export type FolderFormat = Exclude<ConvertFormat, `gguf-${string}`>;

export const isFolderFormat = (format: ConvertFormat): format is FolderFormat => !format.startsWith('gguf-');
