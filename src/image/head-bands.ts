// Where the attention heads of a projection lie: q, k and v have their heads in rows, the output projection in columns.

export type Band = {
  /** First row or column, and the one after the last. */
  readonly start: number;
  readonly end: number;
  /** Short: a head's number, or q0, k0, v0 in a fused matrix. */
  readonly label: string;
};

export type HeadBands = { readonly axis: 'rows' | 'columns'; readonly bands: readonly Band[] };

export type HeadShape = { readonly heads: number; readonly kvHeads: number; readonly headDim: number };

type Facts = { readonly get: (key: string) => unknown };

/**
 * Numbers of heads and their width, from a parsed config.json or else from the metadata of a GGUF file; undefined where
 * neither tells. Nothing in a file is trusted: what does not fit the matrix is left out by `headBands`.
 */
export function headShapeOf(
  config: Readonly<Record<string, unknown>> | undefined,
  metadata: Facts,
): HeadShape | undefined {
  const architecture = metadata.get('general.architecture');
  const read = (key: string, ggufKey: string): number | undefined => {
    const nested = config?.text_config as Readonly<Record<string, unknown>> | null | undefined;
    const value = config?.[key] ?? nested?.[key] ?? metadata.get(`${architecture}.${ggufKey}`);
    return typeof value === 'number' && Number.isSafeInteger(value) && value > 0 ? value : undefined;
  };
  const heads = read('num_attention_heads', 'attention.head_count');
  const hidden = read('hidden_size', 'embedding_length');
  if (heads === undefined) return undefined;
  const headDim = read('head_dim', 'attention.key_length') ?? (hidden === undefined ? undefined : hidden / heads);
  if (headDim === undefined || !Number.isSafeInteger(headDim)) return undefined;
  return { heads, kvHeads: read('num_key_value_heads', 'attention.head_count_kv') ?? heads, headDim };
}

/** The heads of a matrix by its name and shape; undefined when it has none, or they do not fit. */
export function headBands(
  { name, rows, columns }: { readonly name: string; readonly rows: number; readonly columns: number },
  shape: HeadShape | undefined,
): HeadBands | undefined {
  if (shape === undefined) return undefined;
  const { heads, kvHeads, headDim } = shape;
  const bandsOf = (count: number, from = 0, prefix = ''): Band[] =>
    Array.from({ length: count }, (_, i) => ({
      start: from + i * headDim,
      end: from + (i + 1) * headDim,
      label: `${prefix}${i}`,
    }));
  const kind = /(?:^|\.|_)(?:(q|k|v|o|qkv|query_key_value)_proj|W?(qkv)|attn_(q|k|v|qkv|output))(?:\.weight)?$/i.exec(
    name,
  );
  switch (
    kind
      ?.slice(1)
      .find((part) => part !== undefined)
      ?.toLowerCase()
  ) {
    case 'q':
      return rows === heads * headDim ? { axis: 'rows', bands: bandsOf(heads) } : undefined;
    case 'k':
    case 'v':
      return rows === kvHeads * headDim ? { axis: 'rows', bands: bandsOf(kvHeads) } : undefined;
    case 'o':
    case 'output':
      return columns === heads * headDim ? { axis: 'columns', bands: bandsOf(heads) } : undefined;
    case 'qkv':
    case 'query_key_value': {
      if (rows !== (heads + 2 * kvHeads) * headDim) return undefined;
      const k = heads * headDim;
      const v = k + kvHeads * headDim;
      return {
        axis: 'rows',
        bands: [...bandsOf(heads, 0, 'q'), ...bandsOf(kvHeads, k, 'k'), ...bandsOf(kvHeads, v, 'v')],
      };
    }
    default:
      return undefined;
  }
}
