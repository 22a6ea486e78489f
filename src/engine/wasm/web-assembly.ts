// The part of the WebAssembly interface that we call. Its types come with the browser's library, which a Node program
// has no other use for.

export type WasmModule = { readonly __wasmModule: unique symbol };
export type WasmMemory = { readonly buffer: ArrayBufferLike };
export type WasmGlobal = { value: number };
export type WasmInstance = { readonly exports: object };
export type WasmImports = Readonly<
  Record<string, Readonly<Record<string, WasmMemory | ((...args: number[]) => void)>>>
>;

export const webAssembly = (
  globalThis as unknown as {
    WebAssembly: {
      validate(bytes: Uint8Array): boolean;
      compile(bytes: Uint8Array): Promise<WasmModule>;
      instantiate(module: WasmModule, imports?: WasmImports): Promise<WasmInstance>;
      Memory: new (pages: {
        readonly initial: number;
        readonly maximum: number;
        readonly shared: boolean;
      }) => WasmMemory;
    };
  }
).WebAssembly;
