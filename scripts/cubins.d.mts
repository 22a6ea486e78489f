import type { CubinManifest } from '../src/engine/cuda/kernels.ts';

/** Writes prebuilds/cuda below `to`. `cubins`: by compute capability. */
export function packCubins(cubins: ReadonlyMap<number, Uint8Array>, to: string, builtWith: string): CubinManifest;
/** Compiles and packs them into prebuilds/cuda of this package; one sentence where nvcc is missing. */
export function makeCubins(capabilities?: readonly number[]): Promise<string | undefined>;
/** What is wrong with the cubins of a package, if anything. `from`: a folder with `prebuilds/`. */
export function whyCubinsNotCurrent(from?: string): string | undefined;
