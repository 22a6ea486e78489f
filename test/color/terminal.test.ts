import { describe, expect, test } from 'vitest';
import { ansi256Of, ansiSwatch, ansiText, colorDepth, inkOn } from '../../src/color/terminal.ts';

const ESC = '\u001b';

describe('color depth', () => {
  test.each([
    [{}, true, 'none'],
    [{ TERM: 'xterm-256color' }, true, 'ansi256'],
    [{ TERM: 'xterm-256color' }, false, 'none'],
    [{ TERM: 'xterm-256color', COLORTERM: 'truecolor' }, true, 'truecolor'],
    [{ TERM: 'xterm-256color', COLORTERM: '24bit' }, true, 'truecolor'],
    [{ TERM: 'dumb', COLORTERM: 'truecolor' }, true, 'none'],
    [{ TERM: 'xterm-kitty' }, true, 'truecolor'],
    [{ TERM: 'xterm', TERM_PROGRAM: 'iTerm.app' }, true, 'truecolor'],
    [{ TERM: 'xterm-256color', TERM_PROGRAM: 'Apple_Terminal' }, true, 'ansi256'],
    [{ WT_SESSION: 'x' }, true, 'truecolor'],
    [{ TERM: 'xterm', COLORTERM: 'truecolor', NO_COLOR: '1' }, true, 'none'],
    [{ TERM: 'xterm', NO_COLOR: '' }, true, 'ansi256'],
    [{ TERM: 'xterm', FORCE_COLOR: '1' }, false, 'ansi256'],
    [{ TERM: 'xterm', COLORTERM: 'truecolor', FORCE_COLOR: '1', NO_COLOR: '1' }, false, 'truecolor'],
    [{ FORCE_COLOR: '3' }, false, 'truecolor'],
    [{ TERM: 'xterm', COLORTERM: 'truecolor', FORCE_COLOR: '2' }, true, 'ansi256'],
    [{ TERM: 'xterm', COLORTERM: 'truecolor', FORCE_COLOR: '0' }, true, 'none'],
  ] as const)('%j, terminal %s: %s', (env, isTTY, depth) => {
    expect(colorDepth(env, { isTTY })).toBe(depth);
  });
});

describe('swatches', () => {
  test('truecolor, 256 colors, none', () => {
    expect(ansiSwatch('#6404C3', 'truecolor')).toBe(`${ESC}[48;2;100;4;195m  ${ESC}[0m`);
    expect(ansiSwatch('#6404C3', 'ansi256')).toBe(`${ESC}[48;5;56m  ${ESC}[0m`);
    expect(ansiSwatch('#6404C3', 'none')).toBe('');
    expect(ansiSwatch('#6404C3', 'truecolor', ' a ')).toBe(`${ESC}[38;2;255;255;255;48;2;100;4;195m a ${ESC}[0m`);
    expect(ansiSwatch('#6404C3', 'none', ' a ')).toBe(' a ');
    expect(ansiText('#6404C3', 'truecolor', 'a')).toBe(`${ESC}[38;2;100;4;195ma${ESC}[0m`);
    expect(ansiText('#6404C3', 'none', 'a')).toBe('a');
  });

  test('256 colors: corners, cube levels, greys', () => {
    expect(ansi256Of(0, 0, 0)).toBe(16);
    expect(ansi256Of(255, 255, 255)).toBe(231);
    expect(ansi256Of(255, 0, 0)).toBe(196);
    expect(ansi256Of(95, 135, 175)).toBe(67);
    expect(ansi256Of(128, 128, 128)).toBe(244);
    expect(ansi256Of(8, 8, 8)).toBe(232);
  });

  test('ink is the more readable one', () => {
    expect(inkOn('#FFFF00')).toBe('#000000');
    expect(inkOn('#1C45D5')).toBe('#FFFFFF');
  });
});
