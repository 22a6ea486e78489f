// Which .gguf files of a folder are models.

const PART_NAME = /^(.+)-(\d{5})-of-(\d{5})\.gguf$/i;

/** The name's model, its part from 1, and how many there are; undefined for a name that is none of a part. */
export function partOfName(
  file: string,
): { readonly stem: string; readonly part: number; readonly of: number } | undefined {
  const match = PART_NAME.exec(file);
  return match === null ? undefined : { stem: match[1]!, part: Number(match[2]), of: Number(match[3]) };
}

/** Files that lie beside a model: the vision tower, the importance matrix it was quantized with. */
const BESIDE_A_MODEL = /(^|[-_.])(mmproj|imatrix)([-_.]|$)/i;

/**
 * The models among a folder's files, sorted: of a split one only its first part that is there; what only lies beside a
 * model, where there is no other .gguf.
 */
export function ggufModels(files: readonly string[]): string[] {
  const all = files.filter((file) => file.endsWith('.gguf')).sort();
  const models = all.filter((file) => !BESIDE_A_MODEL.test(file));
  const seen = new Set<string>();
  return (models.length > 0 ? models : all).filter((file) => {
    const part = partOfName(file);
    if (part === undefined) return true;
    const whole = `${part.stem} of ${part.of}`;
    if (seen.has(whole)) return false;
    seen.add(whole);
    return true;
  });
}
