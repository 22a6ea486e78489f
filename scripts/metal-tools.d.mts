export type KernelParameter = {
  type: string;
  name: string;
  attribute: string;
  index: number | null;
  constant: boolean;
  writable: boolean;
};
export type KernelText = { text: string; starts: { file: string; line: number }[] };
export const ROOT: string;
export const KERNELS: string;
export const APT_LINE: string;
export function joinKernels(folder?: string): KernelText;
export function readKernels(source: string): { name: string; parameters: KernelParameter[]; threadgroupBytes: number }[];
export function readStructs(source: string): Record<string, { type: string; name: string }[]>;
export function findTools(): {
  gxx: string | undefined;
  clang: string | undefined;
  nvcc: string | undefined;
  fakeMissing: string | undefined;
  clangMissing: string | undefined;
  nvccMissing: string | undefined;
};
/** `make(folder)` leaves a file of this name in `folder`; unless it is there already. */
export function buildOnce(file: string, make: (folder: string) => void): string;
export function buildFake(options?: { kernels?: string; addon?: string }): string;
export function checkAddressSpaces(kernels?: string): void;
export function buildCuda(options?: { kernels?: string; architecture?: string }): string;
export function checkCuda(kernels?: string): string;
