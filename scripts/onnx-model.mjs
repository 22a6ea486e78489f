// Just enough of ONNX's protobuf to hand a graph to onnxruntime: written here so that no converter stands between our
// tests and benches and the runtime. Field numbers: onnx.proto3 of ONNX 1.x.

/** TensorProto.DataType, which `Cast` takes as its `to`. */
export const TYPE = { f32: 1, u8: 2, i32: 6, i64: 7, bool: 9, f16: 10 };

const varint = (value) => {
  const bytes = [];
  let left = BigInt.asUintN(64, BigInt(value));
  do {
    const low = Number(left & 127n);
    left >>= 7n;
    bytes.push(left === 0n ? low : low | 128);
  } while (left !== 0n);
  return bytes;
};
const number = (field, value) => Uint8Array.from([...varint(field << 3), ...varint(value)]);
const bytes = (field, value) =>
  Buffer.concat([Uint8Array.from([...varint((field << 3) | 2), ...varint(value.length)]), value]);
const text = (field, value) => bytes(field, new TextEncoder().encode(value));
const message = (field, ...parts) => bytes(field, Buffer.concat(parts));

function raw(tensor) {
  if (tensor.type === 'u8') return tensor.values;
  const typed = tensor.type === 'f32' ? tensor.values : BigInt64Array.from(tensor.values, BigInt);
  return new Uint8Array(typed.buffer, typed.byteOffset, typed.byteLength);
}

function valueInfo(field, name, value) {
  const { type, dims } =
    typeof value === 'number'
      ? { type: 'f32', dims: Array.from({ length: value }, (_, axis) => `${name}_${axis}`) }
      : value;
  const shape = dims.map((dim) => message(1, typeof dim === 'number' ? number(1, dim) : text(2, dim)));
  return message(field, text(1, name), message(2, message(1, number(1, TYPE[type]), message(2, ...shape))));
}

/** A serialized ModelProto of opset 17. */
export function onnxModel({ nodes, constants, inputs, outputs }) {
  const graph = [
    ...nodes.map((node) =>
      message(
        1,
        ...node.inputs.map((name) => text(1, name)),
        ...node.outputs.map((name) => text(2, name)),
        text(4, node.op),
        ...Object.entries(node.ints ?? {}).map(([name, value]) =>
          message(5, text(1, name), number(3, value), number(20, 2)),
        ),
        ...(node.domain === undefined ? [] : [text(7, node.domain)]),
      ),
    ),
    text(2, 'oracle'),
    ...constants.map((tensor) =>
      message(
        5,
        ...tensor.shape.map((size) => number(1, size)),
        number(2, TYPE[tensor.type]),
        text(8, tensor.name),
        bytes(9, raw(tensor)),
      ),
    ),
    ...Object.entries(inputs).map(([name, value]) => valueInfo(11, name, value)),
    ...Object.entries(outputs).map(([name, value]) => valueInfo(12, name, value)),
  ];
  const opsets = [message(8, text(1, ''), number(2, 17)), message(8, text(1, 'com.microsoft'), number(2, 1))];
  return Buffer.concat([number(1, 8), message(7, ...graph), ...opsets]);
}
