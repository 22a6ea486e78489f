// The child process of `DeskHost`: tools that need no engine, behind calls.

import { setImmediate as otherEvents } from 'node:timers/promises';
import { type ChildCall, serveParent } from '../child/serve-parent.ts';
import { ALL_TOOLS } from './all-tools.ts';
import { callTool } from './call-tool.ts';
import type { DeskCall, DeskEvent, DeskOptions } from './desk-host.ts';
import type { AsideResult, Services } from './services.ts';
import { type TraceColorsRequest, traceColors } from './trace-colors.ts';
import { type TritWindowRequest, tritWindowText } from './trit-window.ts';

function servicesOf(options: unknown): Services {
  const { allowedRoots } = options as DeskOptions;
  return {
    ...(allowedRoots !== undefined && { allowedRoots }),
    generate: () => Promise.reject(new TypeError('the desk generates nothing')),
  };
}

serveParent({
  call: async ({ args, options, signal, event }: ChildCall): Promise<AsideResult> => {
    const { tool: name, args: given, resultBudget } = args as DeskCall;
    const tool = ALL_TOOLS.find((candidate) => candidate.name === name);
    if (tool === undefined) throw new TypeError(`the desk has no tool ${name}`);
    // A call that was cancelled meanwhile is not begun.
    await otherEvents();
    const { structured, text, images } = await callTool(tool, given, {
      services: servicesOf(options),
      signal,
      resultBudget,
      progress: (done, total, message) => event({ done, total, message } satisfies DeskEvent),
    });
    return { json: JSON.stringify(structured), text, images };
  },
  tritWindow: ({ args, options, signal }) =>
    tritWindowText(args as TritWindowRequest, { services: servicesOf(options), signal }),
  traceColors: ({ args, options }) => traceColors(args as TraceColorsRequest, { services: servicesOf(options) }),
});
