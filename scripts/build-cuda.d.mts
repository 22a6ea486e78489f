export function buildCuda(): { readonly path: string } | { readonly path?: undefined; readonly reason: string };
export function whyNoNvcc(): string | undefined;
export function makePtx(): string;
export const NVCC_FLAGS: readonly string[];
export function nvccVersion(): string;
export function nvcc(): string;
/** What nvcc says where registers of a `wgmma` are touched as it does not want them. */
export const WGMMA_REGISTERS: RegExp;
