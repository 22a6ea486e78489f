import { paletteTool } from '../tools/palette.ts';
import { colorMark, conservationLine, type PrintedColor } from './color-line.ts';
import { toolCommand } from './tool-command.ts';
import { refuseOtherThanPng, writeOutput } from './write-output.ts';

export const command = toolCommand({
  name: 'palette',
  summary: 'A run of colors and their GF(3) sum',
  tool: paletteTool,
  positionals: ['n'],
  leaveOut: ['image'],
  flags: {
    out: { type: 'string', short: 'o', placeholder: 'FILE.png', description: 'Also save a picture of the swatches' },
  },
  argsOf: ({ out }) => {
    if (out !== undefined) refuseOtherThanPng(out as string);
    return { image: out !== undefined };
  },
  examples: ['palette 12', 'palette 5 --start 100 --seed 42 --scheme gay.jl', 'palette 48 -o palette.png'],
  print: async ({ structured, images }, { flags, json, output }) => {
    for (const { png } of images) {
      await writeOutput(flags.out as string, png);
      output.note(`wrote ${flags.out}`);
    }
    if (json) return;
    const { colors, trit_sum, gf3_residue } = structured as {
      colors: PrintedColor[];
      trit_sum: number;
      gf3_residue: number;
    };
    const width = `${colors.at(-1)?.index}`.length;
    for (const color of colors) {
      output.line(`${colorMark(color, output.colorDepth)} ${`${color.index}`.padStart(width)} ${color.role}`);
    }
    output.line(conservationLine(trit_sum, gf3_residue));
  },
});
