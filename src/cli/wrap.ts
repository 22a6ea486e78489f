// Text on a terminal of a given width: broken between words, so that no terminal breaks it within one.

/** Narrower than this nothing is laid out: a few letters a line help nobody. */
const NARROWEST = 24;

/** Cells that a line of text takes; what is drawn here is one cell a character. */
function cells(text: string): number {
  return [...text].length;
}

/**
 * Lines of at most `width` cells, as far as words allow. Lines after the first begin with `indent`. Line breaks and spaces
 * at a line's start stay.
 */
export function wrap(text: string, width: number, indent = ''): string {
  if (!Number.isFinite(width)) return text;
  const room = Math.max(NARROWEST, width);
  return text
    .split('\n')
    .map((line) => wrapLine(line, room, indent))
    .join('\n');
}

function wrapLine(line: string, width: number, indent: string): string {
  if (cells(line) <= width) return line;
  const [start] = /^ */.exec(line)!;
  const lines: string[] = [];
  let at = start;
  let used = cells(start);
  let empty = true;
  for (const [, gap = '', word = ''] of line.slice(start.length).matchAll(/( *)([^ ]+)/g)) {
    const length = cells(word);
    if (!empty && used + gap.length + length > width) {
      lines.push(at);
      at = `${start}${indent}${word}`;
      used = cells(at);
      continue;
    }
    at += `${gap}${word}`;
    used += gap.length + length;
    empty = false;
  }
  return [...lines, at].join('\n');
}

/**
 * Two columns; the second starts where the longest of the first ends and, where it does not fit, goes on below itself. A
 * second column that would get less than half of the width stands below the first.
 */
export function table(rows: readonly (readonly [string, string])[], width = Number.POSITIVE_INFINITY): string {
  const left = Math.max(0, ...rows.map(([name]) => cells(name)));
  const beside = width - left - 4;
  if (beside >= width / 2 || !Number.isFinite(width)) {
    const indent = ' '.repeat(left + 4);
    return rows
      .map(([name, text]) => {
        const pad = ' '.repeat(left - cells(name));
        return `  ${name}${pad}  ${wrap(text, beside).replaceAll('\n', `\n${indent}`)}`.trimEnd();
      })
      .join('\n');
  }
  return rows
    .map(([name, text]) => `  ${name}\n      ${wrap(text, width - 6).replaceAll('\n', '\n      ')}`.trimEnd())
    .join('\n');
}
