// onnxruntime-node, which is optional: 288 MB with its binaries. Only what we use of it is written down here.

import { OnnxRuntimeMissingError } from './errors.ts';

/** A tensor on the CPU. float16 comes as Uint16Array or, where the engine has one, Float16Array. */
export type OnnxTensor = {
  readonly type: string;
  readonly data: OnnxData;
  readonly dims: readonly number[];
};

export type OnnxData = Float32Array | Uint16Array | BigInt64Array | Int32Array | Uint8Array;

/** Names stand for sizes that a run decides. */
export type OnnxValueInfo = {
  readonly name: string;
  readonly isTensor: boolean;
  readonly type?: string;
  readonly shape?: readonly (number | string)[];
};

export type OnnxSession = {
  /** Both are missing before version 1.22. */
  readonly inputMetadata?: readonly OnnxValueInfo[];
  readonly outputMetadata?: readonly OnnxValueInfo[];
  run(feeds: Readonly<Record<string, OnnxTensor>>): Promise<Readonly<Record<string, OnnxTensor>>>;
  release(): Promise<void>;
};

export type OnnxRuntime = {
  readonly Tensor: new (type: string, data: OnnxData, dims: readonly number[]) => OnnxTensor;
  readonly InferenceSession: {
    create(model: string | Uint8Array, options?: Readonly<Record<string, unknown>>): Promise<OnnxSession>;
  };
  readonly env: { readonly versions: Readonly<Record<string, string | undefined>> };
};

/** A string to the compiler, which would else want the package there, too. */
const PACKAGE: string = 'onnxruntime-node';

/** The runtime, or one sentence that says why it is not there. */
export async function findOnnxRuntime(): Promise<OnnxRuntime | string> {
  try {
    return (await import(PACKAGE)) as OnnxRuntime;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code === 'ERR_MODULE_NOT_FOUND' ? 'it is not installed' : `it does not load: ${message.split('\n')[0]}`;
  }
}

/** Throws OnnxRuntimeMissingError with the line that installs it. */
export async function onnxRuntime(): Promise<OnnxRuntime> {
  const found = await findOnnxRuntime();
  if (typeof found === 'string') throw new OnnxRuntimeMissingError(found);
  return found;
}
