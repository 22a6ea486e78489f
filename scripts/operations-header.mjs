// Writes kernels/include/operations.h from the table of operations: node scripts/operations-header.mjs (after a build).

import { writeFileSync } from 'node:fs';
import { operationsHeader } from '../dist/engine/recorded/operations.js';

writeFileSync(new URL('../kernels/include/operations.h', import.meta.url), operationsHeader());
