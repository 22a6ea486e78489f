// What can go wrong between us and an ONNX graph.

import { BitnetError } from '../../errors.ts';

/** The optional package is not there, or its binary does not load. */
export class OnnxRuntimeMissingError extends BitnetError {
  readonly code = 'ONNX_RUNTIME_MISSING';
  readonly fault = 'job';

  constructor(reason: string) {
    super({ what: 'the backend "onnx" needs the package onnxruntime-node', where: reason, fix: INSTALL_ONNX_RUNTIME });
  }
}

/** Its install script would fetch CUDA libraries, too; everything for the CPU is in the package. */
export const INSTALL_ONNX_RUNTIME =
  'run `npm install --ignore-scripts onnxruntime-node` (with -g if bitnet-gf3-mcp was installed so; in a clone `npm run onnx`)';

/** The graph cannot be loaded or run, or is not a decoder as exporters write it. */
export class OnnxModelError extends BitnetError {
  readonly code = 'ONNX_MODEL';
  readonly fault = 'job';
}
