// A small bitmap font for labels, drawn for this project: printable ASCII, five dots wide, seven high, and two more
// rows for descenders. One character of base 32 is one row from the top, its highest bit the leftmost dot; rows
// that are left out are empty. "ehhvhhh" is A: .###. #...# #...# ##### #...# #...# #...#

/** Dots from one character to the next, and from one line to the next at least. */
export const GLYPH_ADVANCE = 6;
export const GLYPH_HEIGHT = 9;
export const GLYPH_WIDTH = 5;
/** Rows above the baseline. */
export const CAP_HEIGHT = 7;

// biome-ignore format: a table
const GLYPHS: Readonly<Record<string, string>> = {
  A: 'ehhvhhh', B: 'uhhuhhu', C: 'ehggghe', D: 'uhhhhhu', E: 'vgguggv', F: 'vgguggg', G: 'ehgnhhe', H: 'hhhvhhh',
  I: 'e44444e', J: '72222ic', K: 'hikokih', L: 'ggggggv', M: 'hrllhhh', N: 'hppljjh', O: 'ehhhhhe', P: 'uhhuggg',
  Q: 'ehhhlid', R: 'uhhukih', S: 'fgge11u', T: 'v444444', U: 'hhhhhhe', V: 'hhhhha4', W: 'hhhllla', X: 'hha4ahh',
  Y: 'hha4444', Z: 'v1248gv',
  a: '00e1fhf', b: 'gguhhhu', c: '00egghe', d: '11fhhhf', e: '00ehvge', f: '698s888', g: '00fhhhf1e', h: 'gguhhhh',
  i: '40c444e', j: '2062222ic', k: 'ggikoki', l: 'c44444e', m: '00qllll', n: '00uhhhh', o: '00ehhhe', p: '00uhhhugg',
  q: '00fhhhf11', r: '00mpggg', s: '00fge1u', t: '88s8896', u: '00hhhhf', v: '00hhha4', w: '00hhlla', x: '00ha4ah',
  y: '00hhhhf1e', z: '00v248v',
  0: 'ehjlphe', 1: '4c4444e', 2: 'eh168gv', 3: 'u11e11u', 4: '26aiv22', 5: 'vgu11he', 6: '68guhhe', 7: 'v124888',
  8: 'ehhehhe', 9: 'ehhf12c',
  ' ': '', '!': '4444404', '"': 'aa', '#': 'aavavaa', $: '4fke5u4', '%': 'op248j3', '&': 'cik8lid', "'": '44',
  '(': '2488842', ')': '8422248', '*': '04lel4', '+': '044v44', ',': '00000448', '-': '000v', '.': '00000cc',
  '/': '11248gg', ':': '00cc0cc', ';': '00cc0c48', '<': '248g842', '=': '00v0v', '>': '8421248', '?': 'eh16404',
  '@': 'ehnlnge', '[': 'e88888e', '\\': 'gg84211', ']': 'e22222e', '^': '4ah', _: '0000000v', '`': '84',
  '{': '2448442', '|': '4444444', '}': '8442448', '~': '008l2', '…': '000000l',
};

/** What stands for a character that the font lacks. */
const MISSING = 'vhhhhhv';

/** The rows of a character from the top, bit 4 the leftmost dot. */
export function glyphRows(character: string): number[] {
  return Array.from(GLYPHS[character] ?? MISSING, (digit) => Number.parseInt(digit, 32));
}
