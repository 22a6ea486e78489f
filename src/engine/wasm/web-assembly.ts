// The part of the WebAssembly interface that we call. Its types come with the browser's library, which a Node program
// has no other use for.

export type WasmModule = { readonly __wasmModule: unique symbol };
export type WasmMemory = { readonly buffer: ArrayBuffer };
export type WasmInstance = { readonly exports: object };

export const webAssembly = (
  globalThis as unknown as {
    WebAssembly: {
      validate(bytes: Uint8Array): boolean;
      compile(bytes: Uint8Array): Promise<WasmModule>;
      instantiate(module: WasmModule): Promise<WasmInstance>;
    };
  }
).WebAssembly;
