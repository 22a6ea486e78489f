export function buildCuda(): { readonly path: string } | { readonly path?: undefined; readonly reason: string };
export function whyNoNvcc(): string | undefined;
export function makePtx(): string;
export function makeCubins(to?: string, generations?: readonly number[]): string[];
export function nvcc(): string;
