// A trace as one HTML file: what it shows, and that text of a model is nothing but text in it.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { textParts, tokenParts } from '../../src/app/shown-text.ts';
import type { Trace, TraceStep } from '../../src/app/trace.ts';
import { escapeHtml, tracePage } from '../../src/app/trace-page.ts';
import { chromiumPath } from './browser.ts';

const HOSTILE = [
  '<script>document.title="ran"</script>',
  '</style><script>document.title="ran"</script>',
  '"><img src=x onerror="document.title=\'ran\'">',
  "' onmouseover='document.title=1",
  '</span></div></body></html>',
  '<!-- ',
  '&lt;b&gt;',
  '<a href="javascript:document.title=1">x</a>',
  '<link rel=stylesheet href=http://evil.test/x.css>',
  '\u202egpj.exe',
  'a\u0000b\u001b[31m',
  '\ud800',
  ']]>',
];

function traceOf(tokens: readonly string[], more: Partial<TraceStep> = {}): Trace {
  const completion = tokens.join('');
  const trits = tokens.map((_, i) => ((i % 3) - 1) as -1 | 0 | 1);
  const sum = trits.reduce((total: number, trit) => total + trit, 0);
  return {
    model: HOSTILE[0]!,
    output: `${HOSTILE[1]!}${completion}`,
    completion,
    finish_reason: 'stop',
    seed: '1069',
    trit_sum: sum,
    gf3_residue: ((sum % 3) + 3) % 3,
    gf3_conserved: sum % 3 === 0,
    trace: tokens.map((token, step) => ({
      step,
      token,
      token_id: step,
      logprob: Math.log(1 / (step + 2)),
      color: ['#6404C3', '#EB6AF7', '#7F1747'][step % 3]!,
      trit: trits[step]!,
      ...more,
    })),
  };
}

describe('text that is shown', () => {
  test.each([
    [
      'hi<|eot_id|>',
      [
        ['hi', false],
        ['<|eot_id|>', true],
      ],
    ],
    [
      '<s>a</s>',
      [
        ['<s>', true],
        ['a', false],
        ['</s>', true],
      ],
    ],
    [
      '[INST] x [/INST]',
      [
        ['[INST]', true],
        [' x ', false],
        ['[/INST]', true],
      ],
    ],
    [
      '<end_of_turn>\n',
      [
        ['<end_of_turn>', true],
        ['⏎\n', false],
      ],
    ],
    ['<think>', [['<think>', true]]],
    ['a < b, <b>, [x]', [['a < b, <b>, [x]', false]]],
    ['\u202e\u200b\u0000\u009f\ufeff', [['⟨U+202E⟩⟨U+200B⟩␀⟨U+009F⟩⟨U+FEFF⟩', false]]],
    // Joined emoji stay joined.
    ['👩‍🚀é漢', [['👩‍🚀é漢', false]]],
    ['', []],
  ] as const)('%j', (text, parts) => {
    expect(textParts(text).map(({ text: shown, special }) => [shown, special])).toEqual(parts);
  });

  test('a token without text of its own is a mark', () => {
    expect(tokenParts('')).toEqual([{ text: '∅', special: true }]);
  });
});

describe('the page', () => {
  test('is the same for the same trace, loads nothing and runs nothing', () => {
    const html = tracePage(traceOf(HOSTILE));
    expect(tracePage(traceOf(HOSTILE))).toBe(html);
    expect(html).toContain("default-src 'none'; style-src 'sha256-");
    expect(html).not.toMatch(/<script|<img|<link|<iframe|<a |javascript:(?!document)|\son\w+="/i);
    expect([...html.matchAll(/\s(?:src|href|style)="/g)]).toEqual([]);
    // Nothing of the markup is left out of balance by what the model wrote.
    const count = (tag: string) => [
      (html.match(new RegExp(`<${tag}[ >]`, 'g')) ?? []).length,
      (html.match(new RegExp(`</${tag}>`, 'g')) ?? []).length,
    ];
    for (const tag of ['span', 'div', 'table', 'tr', 'td', 'style', 'body', 'p', 'svg']) {
      const [opened, closed] = count(tag);
      expect(opened, tag).toBe(closed);
    }
  });

  test('whatever the text, what was escaped reads as it was', () => {
    const entities: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'" };
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        const escaped = escapeHtml(text);
        expect(escaped).not.toMatch(/[<>"']/);
        expect(escaped.replace(/&(amp|lt|gt|quot|#39);/g, (_, name: string) => entities[name]!)).toBe(text);
      }),
    );
  });

  test('shows log-probabilities, the running sum, and alternatives when there are any', () => {
    const html = tracePage(traceOf(['a', 'b', 'c', 'd']));
    expect([...html.matchAll(/class="logprob">([^<]+)</g)].map(([, text]) => text)).toEqual([
      '-0.69',
      '-1.10',
      '-1.39',
      '-1.61',
    ]);
    // -1 -1 0 -1: the sum is 0 mod 3 after the third.
    expect(html.match(/class="dot"/g)).toHaveLength(1);
    expect(html).toContain('from -1 to 0, at the end -1');
    expect(html).not.toContain('likeliest here');
    const top_logprobs = [
      { token: '<b>', logprob: Math.log(0.75) },
      { token: 'a', logprob: null as never },
    ];
    const likely = tracePage(traceOf(['a'], { top_logprobs }));
    expect(likely).toContain('<tr><td><code>&lt;b&gt;</code></td><td>-0.288 (75.0%)</td></tr>');
    expect(likely).toContain('<tr class="chosen"><td><code>a</code></td><td>not told</td></tr>');
  });

  test('thoughts that are no part of the completion are no part of the prompt either', () => {
    const thinking = {
      ...traceOf(['<think>', 'hm', '</think>', 'Yes']),
      output: 'Q: <think>hm</think>Yes',
      completion: 'Yes',
    };
    expect(tracePage(thinking)).toContain('<p class="prompt">Q: </p>');
    // The last tokens may not have been written out yet: bytes of a cut character.
    const cut = { ...traceOf(['a']), output: 'Q: b', completion: 'b' };
    expect(tracePage(cut)).toContain('<p class="prompt">Q: </p>');
  });

  test('a server that tells little, a color that is none, no tokens at all', () => {
    const silent = tracePage(traceOf(['a', ''], { logprob: null, color: 'url(http://evil.test)' }));
    expect([...silent.matchAll(/class="logprob">([^<]+)</g)].map(([, text]) => text)).toEqual(['·', '·']);
    expect(silent).toContain('this one was not told');
    expect(silent).not.toContain('evil.test');
    const none = tracePage(traceOf([]));
    expect(none).toContain('0 tokens by');
    expect(none).not.toMatch(/NaN|undefined|Infinity/);
  });
});

describe.skipIf(chromiumPath === undefined)('in Chromium', () => {
  const folder = mkdtempSync(join(tmpdir(), 'trace-page-'));
  let browser: Browser;
  let page: Page;
  beforeAll(async () => {
    browser = await chromium.launch({
      executablePath: chromiumPath!,
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-background-networking',
        '--disable-quic',
        '--no-first-run',
        '--disable-component-update',
        '--disable-sync',
      ],
    });
  });
  afterAll(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  test.each([900, 340])('at a width of %i hostile text is text, and nothing runs over the edge', async (width) => {
    const tokens = [...HOSTILE, 'x'.repeat(300), ...Array.from({ length: 60 }, (_, i) => ` word${i}`)];
    const path = join(folder, 'trace.html');
    const likely = [{ token: HOSTILE[2]!, logprob: -0.5 }];
    writeFileSync(path, tracePage(traceOf(tokens, { top_logprobs: likely })));
    page = await browser.newPage({ viewport: { width, height: 800 } });
    const complaints: string[] = [];
    const requests: string[] = [];
    page.on('console', (message) => complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('request', (request) => requests.push(request.url()));
    await page.goto(pathToFileURL(path).href);
    expect(await page.title()).toBe(`${tokens.length} tokens by ${HOSTILE[0]}`);
    expect(await page.locator('.step').count()).toBe(tokens.length);
    expect(await page.locator('script, img, link, a, iframe, b').count()).toBe(0);
    const shown = await page.locator('.token').allTextContents();
    HOSTILE.forEach((token, i) => {
      // A half of a surrogate pair is no text in any file.
      if (token !== '\ud800')
        expect(shown[i]).toBe(
          tokenParts(token)
            .map(({ text }) => text)
            .join(''),
        );
    });
    const first = page.locator('.step').first();
    await first.hover();
    expect(await first.locator('.facts').isVisible()).toBe(true);
    expect(await first.locator('.likely code').textContent()).toBe(HOSTILE[2]);
    const second = page.locator('.step').nth(1);
    await second.focus();
    await page.mouse.move(0, 0);
    expect(await second.locator('.facts').isVisible()).toBe(true);
    expect(await first.locator('.facts').isVisible()).toBe(false);
    const colors = await page
      .locator('.token')
      .first()
      .evaluate((element) => getComputedStyle(element).backgroundColor);
    expect(colors).toBe('rgb(100, 4, 195)');
    expect(await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth)).toBeLessThanOrEqual(0);
    expect(complaints).toEqual([]);
    expect(requests.map((url) => new URL(url).protocol)).toEqual(['file:']);
    await page.close();
  });
});
