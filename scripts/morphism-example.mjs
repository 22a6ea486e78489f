// The worked example of docs/morphisms.md: four steps on one sentence through the MCP tools' own code, one taken back and
// taken again, and the picture of the flips.
//   npm run build && node scripts/morphism-example.mjs [--out docs/morphism-flips.png]
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const { Worlds } = await import('../dist/world/worlds.js');
const { worldExpectedValue } = await import('../dist/world/morphism.js');
const { morphismColor } = await import('../dist/world/morphism-color.js');
const { tritMapPng } = await import('../dist/image/trit-map.js');
const { pictureColors } = await import('../dist/color/picture-colors.js');

const TEXT = ['The ternary fox counted its three thoughts, and every morning they came to nothing.'];
const at = process.argv.indexOf('--out');
const out = at < 0 ? undefined : process.argv[at + 1];

const folder = mkdtempSync(join(tmpdir(), 'bitnet-example-'));
try {
  const worlds = await Worlds.open({ folder });
  const step = (from) =>
    worlds.step({ ...from, text: TEXT, optimizer: 'adamw', lr: 0.00003, steps: 1, conserve: true });
  const short = (id) => id.slice(0, 12);
  const begin = await worlds.begin('default');
  let world = begin.id;
  for (let i = 0; i < 4; i += 1) {
    const { before, after, report } = await step({ world });
    const { wev } = worldExpectedValue(report.lossBefore, report.lossAfter);
    const flips = report.layers.reduce((sum, layer) => sum + layer.flips, 0);
    console.log(
      `${short(before.id)} -> ${short(after.id)}  loss ${report.lossBefore.toFixed(4)} -> ${report.lossAfter.toFixed(4)}  ` +
        `WEV ${wev >= 0 ? '+' : ''}${wev.toFixed(4)}  ${flips} flips, sum ${report.tritDeltaSum} mod 3 = ${report.gf3Residue}`,
    );
    world = after.id;
  }
  console.log(`color ${morphismColor(TEXT, 1069n).index}: ${morphismColor(TEXT, 1069n).hex}`);
  const { to } = await worlds.invert(world);
  const again = await step({ world: to.id });
  console.log(
    `inverted to ${short(to.id)}, taken again: ${again.after.id === world ? 'the same world' : 'ANOTHER WORLD'}`,
  );
  if (out !== undefined) {
    const layer = 'model.layers.0.self_attn.k_proj.weight';
    const { shape, signs } = await worlds.changes(begin.id, world, layer);
    const [rows, columns] = shape;
    const png = await tritMapPng({
      name: `changes of ${layer}`,
      rows,
      columns,
      readRows: (start, end) => signs.subarray(start * columns, end * columns),
      ...pictureColors({ seed: 1069n }),
      labels: { minus: 'fell', ergodic: 'stayed', plus: 'rose' },
    });
    writeFileSync(out, png);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
