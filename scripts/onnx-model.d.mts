export type OnnxTensor = { readonly name: string; readonly shape: readonly number[] } & (
  | { readonly type: 'f32'; readonly values: Float32Array }
  | { readonly type: 'i64'; readonly values: readonly number[] }
  | { readonly type: 'u8'; readonly values: Uint8Array }
);

export type OnnxNode = {
  readonly op: string;
  readonly domain?: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly ints?: Readonly<Record<string, number>>;
};

/** A number: float32 of any shape with so many dimensions. Names in `dims` stand for sizes that a run decides. */
export type OnnxValue = number | { readonly type: keyof typeof TYPE; readonly dims: readonly (number | string)[] };

export type OnnxGraph = {
  readonly nodes: readonly OnnxNode[];
  readonly constants: readonly OnnxTensor[];
  readonly inputs: Readonly<Record<string, OnnxValue>>;
  readonly outputs: Readonly<Record<string, OnnxValue>>;
};

/** TensorProto.DataType, which `Cast` takes as its `to`. */
export const TYPE: {
  readonly f32: 1;
  readonly u8: 2;
  readonly i32: 6;
  readonly i64: 7;
  readonly bool: 9;
  readonly f16: 10;
};

/** A serialized ModelProto of opset 17. */
export function onnxModel(graph: OnnxGraph): Uint8Array;
