// What native code this package has.

/** `bitnet` runs models on the CPU, `train` trains them, `metal` on Apple's GPUs, `cuda` on NVIDIA's. */
export type AddonKind = 'bitnet' | 'train' | 'metal' | 'cuda';

export const ADDON_KINDS: readonly AddonKind[] = ['bitnet', 'train', 'metal', 'cuda'];

/** As a sentence begins. */
export const ADDON_NAMES: Readonly<Record<AddonKind, string>> = {
  bitnet: 'the native kernels',
  train: 'the native training kernels',
  metal: 'the Metal addon',
  cuda: 'the CUDA addon',
};

/** One sentence from anything thrown, on one line. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text
    .trim()
    .split(/\s*[\r\n]+\s*/)
    .slice(0, 3)
    .join(' | ');
}
