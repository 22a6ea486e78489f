// Every tool, in the order in which clients list them.

import { analyzeLayerTool } from './analyze-layer.ts';
import { balanceTriadTool } from './balance-triad.ts';
import { colorAtTool } from './color-at.ts';
import type { Tool } from './define-tool.ts';
import { generateWithTraceTool } from './generate-with-trace.ts';
import { morphismInvertTool } from './morphism-invert.ts';
import { morphismStepTool } from './morphism-step.ts';
import { paletteTool } from './palette.ts';

export const ALL_TOOLS: readonly Tool[] = [
  generateWithTraceTool,
  analyzeLayerTool,
  colorAtTool,
  paletteTool,
  balanceTriadTool,
  morphismStepTool,
  morphismInvertTool,
];
