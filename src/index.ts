// The library's public names. Everything else may change without notice.

export { type LayerStats, layerStats } from './analysis/layer-stats.ts';
export type { TritCounts } from './analysis/trit-counts.ts';
export type { Color } from './color/color.ts';
export { colorAt, colorStream, palette } from './color/palette.ts';
export { DEFAULT_SCHEME, DEFAULT_SEED, SCHEMES, type Scheme } from './color/scheme.ts';
export { type TritColors, tritColors } from './color/trit-colors.ts';
export { BACKEND_NAMES, type BackendName } from './engine/backend.ts';
export { ArgumentError, BitnetError, CancelledError } from './errors.ts';
export type { Checkpoint, TensorInfo } from './formats/checkpoint.ts';
export { openCheckpoint } from './formats/open-checkpoint.ts';
export { writeSafetensors } from './formats/write-safetensors.ts';
export { Engine, type EngineOptions } from './generate/engine.ts';
export { EngineHost } from './generate/engine-host.ts';
export { evaluateIds, evaluateText } from './generate/evaluate.ts';
export { generate, generateWith } from './generate/generate.ts';
export { generateMany, generateManyWith } from './generate/generate-many.ts';
export type {
  Alternative,
  ChatMessage,
  FinishReason,
  GenerateHooks,
  GenerateRequest,
  GenerateResult,
  ManyHooks,
  ManyRequest,
  ManyResult,
  Sampling,
  TraceStep,
} from './generate/types.ts';
export { type VerifyReport, verifyCase } from './generate/verify.ts';
export { gf3Residue, isConserved, tritSum } from './gf3/sums.ts';
export { type Role, role, type Trit, tritSymbol } from './gf3/trit.ts';
export { listModels, type ModelLocation, resolveModel } from './hub/resolve-model.ts';
export { swatchPng } from './image/swatches.ts';
export { tritMapPng } from './image/trit-map.ts';
export { parseSeed } from './random/seed.ts';
export { SplitMix64, splitmix64 } from './random/splitmix64.ts';
export type { TensorView } from './tensor/tensor-view.ts';
export { loadTokenizer } from './tokenizer/load-tokenizer.ts';
export type { ChatOptions, ContentPart, TemplateVariables, Tokenizer, ToolCall } from './tokenizer/tokenizer.ts';
export { ALL_TOOLS } from './tools/all-tools.ts';
export { callTool, type ToolResult } from './tools/call-tool.ts';
export type { Tool, ToolContext } from './tools/define-tool.ts';
export { balanceOf, completingTrit } from './triads/balance.ts';
