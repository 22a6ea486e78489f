export const ROOT: string;
/** File name to text. `up` leads from `outdir` to the package's root; nothing is written unless `write` (default true). */
export function bundleProgram(options: {
  readonly outdir: string;
  readonly up: string;
  readonly write?: boolean;
}): Promise<Map<string, string>>;
export function sizeText(bytes: number): string;
