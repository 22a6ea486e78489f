import { colorAtTool } from '../tools/color-at.ts';
import { colorMark, type PrintedColor } from './color-line.ts';
import { toolCommand } from './tool-command.ts';

export const command = toolCommand({
  name: 'color',
  summary: 'The color at one index of a seeded stream',
  tool: colorAtTool,
  positionals: ['index'],
  examples: ['color 1', 'color 12 --seed 0xDEADBEEF --scheme gay-mcp'],
  print: ({ structured }, { json, output }) => {
    if (json) return;
    const color = structured as PrintedColor & {
      hsl: Record<'h' | 's' | 'l', number>;
      oklch: Record<'l' | 'c' | 'h', number>;
    };
    const { rgb, hsl, oklch } = color;
    const percent = (share: number) => `${(100 * share).toFixed(1)}%`;
    output.line(`${colorMark(color, output.colorDepth)} ${color.role}`);
    output.line(`      rgb(${rgb.join(', ')})`);
    output.line(`      hsl(${hsl.h.toFixed(1)}, ${percent(hsl.s)}, ${percent(hsl.l)})`);
    output.line(`      oklch(${percent(oklch.l)} ${oklch.c.toFixed(4)} ${oklch.h.toFixed(1)})`);
  },
});
