// What `--backend` takes, by name.

import { BACKEND_NAMES } from '../engine/backend.ts';

/** What `--backend` takes besides `auto`, which chooses among our own backends. */
export const SOURCE_NAMES = [...BACKEND_NAMES, 'onnx', 'openai'] as const;

export type SourceName = (typeof SOURCE_NAMES)[number];

export type BackendChoice = 'auto' | SourceName;
