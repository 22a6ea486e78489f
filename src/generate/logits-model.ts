// What turns tokens into logits, as the scheduler sees it.

import type { Executable } from '../engine/backend.ts';

/** What turns tokens into logits: a loaded program, or an ONNX graph. */
export type LogitsModel = Omit<Executable, 'info'>;
