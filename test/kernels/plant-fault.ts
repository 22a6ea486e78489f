/** A file of kernels, text in it with «what will be wrong» marked, and what stands there instead. */
export type Fault = readonly [file: string, where: string, instead: string];

/** `source` with a fault that is there once `planted(number)`, which the emulators of both GPUs have. */
export function plantFault(source: string, number: number, [file, where, instead]: Fault): string {
  const [before = '', right = '', after = ''] = where.split(/[«»]/);
  const at = source.indexOf(before + right + after);
  if (at < 0) throw new Error(`${file} has no "${before + right + after}" any more`);
  const both = right.endsWith(';')
    ? `if (planted(${number})) { ${instead} } else { ${right} }`
    : `(planted(${number}) ? (${instead}) : (${right}))`;
  return source.slice(0, at) + before + both + after + source.slice(at + (before + right + after).length);
}
