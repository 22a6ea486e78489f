// The MCP App in a real browser, inside a frame as hosts make it, with results of the real tools.

import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { type Browser, chromium, type FrameLocator, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { buildViewHtml, moduleOf } from '../../scripts/build-app.mjs';
import { TRIT_COLORS } from '../../src/app/browser/trits.ts';
import { VIEW_HTML } from '../../src/app/view-html.ts';
import { CONTRAST_COLORS } from '../../src/color/picture-colors.ts';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { EngineServices } from '../../src/tools/engine-services.ts';
import { tritWindowText } from '../../src/tools/trit-window.ts';
import { ROOT } from '../mcp/server-process.ts';
import { chromiumPath } from './browser.ts';

test('the page is what its sources give (npm run app writes it)', async () => {
  const html = await buildViewHtml();
  expect(readFileSync(join(ROOT, 'src/app/view-html.ts'), 'utf8')).toBe(moduleOf(html));
});

test('the page is small and names nothing outside itself', () => {
  expect(Buffer.byteLength(VIEW_HTML)).toBeLessThan(32 * 1024);
  const addresses = [...VIEW_HTML.matchAll(/https?:\/\/[^"'\s)]+/g)].map(([address]) => address);
  // The name of a language, which nothing loads.
  expect(new Set(addresses)).toEqual(new Set(['http://www.w3.org/2000/svg']));
  expect(VIEW_HTML).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(/);
});

/** Without its sandbox (there is none in a container), and asking nobody for updates meanwhile. */
const QUIET = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-background-networking',
  '--disable-quic',
  '--no-first-run',
  '--disable-component-update',
  '--disable-sync',
];

const ALL_CAPABILITIES = { serverResources: {}, updateModelContext: { text: {} } };
/** Where screenshots go when somebody wants to look at them. */
const screenshots = process.env.APP_SCREENSHOTS;

describe.skipIf(chromiumPath === undefined)('in Chromium', () => {
  let browser: Browser;
  let services: EngineServices;
  let hostScript: string;
  let page: Page;
  let complaints: string[];
  const requests: string[] = [];

  beforeAll(async () => {
    // The native kernels would be compiled first, which may take a minute.
    vi.stubEnv('BITNET_BACKEND', 'wasm');
    services = new EngineServices();
    const { outputFiles } = await build({
      entryPoints: [join(ROOT, 'test/app/host-page.ts')],
      bundle: true,
      write: false,
      format: 'iife',
    });
    hostScript = outputFiles[0]!.text;
    browser = await chromium.launch({ executablePath: chromiumPath!, args: QUIET });
  });
  afterAll(async () => {
    await browser?.close();
    await services.close();
    vi.unstubAllEnvs();
  });
  afterEach(async () => {
    await page.close();
    expect(complaints, 'errors and policy violations in the console').toEqual([]);
    expect(
      requests.filter((url) => url !== 'http://host.test/' && !url.startsWith('data:')),
      'requests of the page',
    ).toEqual([]);
  });

  type Setting = {
    readonly capabilities?: Record<string, object>;
    readonly context?: Record<string, unknown>;
    readonly system?: 'light' | 'dark';
    readonly html?: string;
    readonly width?: number;
  };

  /** The view in its frame, connected. */
  async function open({
    capabilities = ALL_CAPABILITIES,
    context = {},
    system = 'light',
    html = VIEW_HTML,
    width = 760,
  }: Setting = {}) {
    page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme: system });
    complaints = [];
    requests.length = 0;
    page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('request', (request) => requests.push(request.url()));
    await page.route('http://host.test/', (route) =>
      route.fulfill({
        contentType: 'text/html',
        // As strict as hosts are; a srcdoc frame inherits it.
        headers: {
          'content-security-policy':
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; frame-src 'self'",
        },
        body: `<!doctype html><body style="margin:0"><script>${hostScript.replaceAll('</script', '<\\/script')}</script>`,
      }),
    );
    await page.exposeFunction('readResource', readResource);
    await page.goto('http://host.test/');
    await page.evaluate((options) => (globalThis as never as HostWindow).startHost(options), {
      html,
      capabilities,
      context,
    });
    return page.frameLocator('iframe');
  }

  type HostWindow = {
    startHost(options: object): Promise<void>;
    bridge: { [method: string]: (params: object) => Promise<unknown> };
    told: { content: { text: string }[] }[];
    modes: string[];
    sizes: { height: number }[];
  };

  const send = (method: string, params: object) =>
    page.evaluate(([name, value]) => (globalThis as never as HostWindow).bridge[name]!(value), [
      method,
      params,
    ] as const);

  async function readResource(uri: string) {
    const [, model, layer, row, column] = /models\/([^/]+)\/trits\/([^/]+)\/(\d+)\/(\d+)$/.exec(uri)!;
    const place = {
      model: decodeURIComponent(model!),
      layer: decodeURIComponent(layer!),
      row: Number(row),
      column: Number(column),
    };
    const text = await tritWindowText(place, { services });
    return { contents: [{ uri, mimeType: 'text/plain', text }] };
  }

  /** A real result, as the server sends it. */
  async function resultOf(tool: string, args: Record<string, unknown>) {
    const declared = ALL_TOOLS.find(({ name }) => name === tool)!;
    const { structured, text, images } = await callTool(declared, args, { services });
    const content = [
      { type: 'text', text },
      ...images.map(({ png }) => ({ type: 'image', mimeType: 'image/png', data: Buffer.from(png).toString('base64') })),
    ];
    return { structured, message: { content, structuredContent: structured } };
  }

  async function shot(name: string): Promise<void> {
    if (screenshots === undefined) return;
    mkdirSync(screenshots, { recursive: true });
    await page.waitForTimeout(500);
    await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true });
  }

  const background = (view: FrameLocator, selector: string) =>
    view
      .locator(selector)
      .first()
      .evaluate((element) => getComputedStyle(element).backgroundColor);

  test('a trace: tokens in their colors, details by pointer and keyboard, running sum', async () => {
    const view = await open();
    await send('sendToolInput', { arguments: { prompt: 'Once upon a time' } });
    await view.getByText('“Once upon a time”').waitFor();
    const { structured, message } = await resultOf('generate_with_trace', {
      prompt: 'Once upon a time',
      max_tokens: 12,
    });
    await send('sendToolResult', message);

    const tokens = view.getByRole('option');
    await expect.poll(() => tokens.count()).toBe(12);
    expect(await background(view, '.token')).toBe('rgb(100, 4, 195)');
    expect(
      await view
        .locator('.token')
        .first()
        .evaluate((element) => getComputedStyle(element).color),
    ).toBe('rgb(255, 255, 255)');
    const shownText = await view.getByRole('listbox').evaluate((element) => element.textContent);
    expect(shownText!.replaceAll('⏎', '')).toBe(structured.output);
    await view.getByText('GF(3) trit sum -3 mod 3 = 0').waitFor();
    await view.getByText('✓ conserved').waitFor();

    const details = view.locator('.details');
    expect(await details.textContent()).toContain('#6404C3');
    await tokens.nth(3).hover();
    const { token, token_id, logprob } = (structured.trace as Record<string, unknown>[])[3]!;
    const hovered = await details.textContent();
    for (const fact of [
      '#4A4744',
      JSON.stringify(token),
      String(token_id),
      '3 (color index 4)',
      '+ PLUS',
      Number(logprob).toFixed(3),
      '-2 mod 3 = 1',
    ]) {
      expect(hovered).toContain(fact);
    }
    // The pointer leaves: what was selected shows again.
    await view.getByRole('heading').first().hover();
    expect(await details.textContent()).toContain('#6404C3');

    await tokens.first().focus();
    await page.keyboard.press('ArrowRight');
    expect(await details.textContent()).toContain('#EB6AF7');
    await page.keyboard.press('End');
    expect(await details.textContent()).toContain('#1F3EA5');
    expect(await tokens.last().evaluate((element) => element === document.activeElement)).toBe(true);
    await page.keyboard.press('Home');
    expect(await tokens.first().getAttribute('aria-selected')).toBe('true');
    expect(await view.locator('[tabindex="0"]').count(), 'one stop for Tab').toBe(1);

    await page.keyboard.press('Enter');
    await expect.poll(() => page.evaluate(() => (globalThis as never as HostWindow).told.length)).toBe(1);
    const told = await page.evaluate(() => (globalThis as never as HostWindow).told[0]!.content[0]!.text);
    expect(told).toContain('token 0 of the trace');

    // Sums -1 -2 -3 -2 -2 -3 -3 -4 -3 -3 -3 -3: seven of them are 0 mod 3.
    expect(await view.locator('.dot').count()).toBe(7);
    await shot('trace-light');
  });

  test('a long trace stays inside its box', async () => {
    const { message } = await resultOf('generate_with_trace', {
      prompt: 'Once upon a time',
      max_tokens: 200,
      activations: true,
    });
    const view = await open({ context: { theme: 'dark' } });
    await send('sendToolResult', message);
    await view.getByRole('option').first().waitFor();
    await view.getByRole('option').first().focus();
    const row = (index: number) =>
      view
        .getByRole('option')
        .nth(index)
        .evaluate((element) => element.getClientRects()[0]!.top);
    await page.keyboard.press('ArrowDown');
    const selected = await view
      .locator('[aria-selected="true"]')
      .evaluate((element) => element.getClientRects()[0]!.top);
    expect(selected).toBeGreaterThan((await row(0)) + 5);
    expect(await view.locator('.activations .bar').count()).toBeGreaterThan(1);
    await shot('trace-long-dark');
  });

  test('several texts: each opens to its trace, and comes without one where it has none', async () => {
    const args = { prompts: ['Once upon a time', '<b>Lily</b> found', 'One'], max_tokens: 8, top_logprobs: 3 };
    const view = await open();
    await send('sendToolInput', { arguments: args });
    await view.getByText('3 prompts ...').waitFor();
    const { structured, message } = await resultOf('generate_with_trace', args);
    await send('sendToolResult', message);
    await view.getByText(/^3 texts by default, \d+ tokens\/s together$/).waitFor();
    expect(await view.locator('.token').count()).toBe(0);
    await view.locator('summary').nth(1).click();
    await view.locator('.token').first().waitFor();
    const { trace } = (structured.results as { trace: { color: string }[] }[])[1]!;
    expect(await view.locator('.token').count()).toBe(trace.length);
    await view.getByText('Likeliest here').waitFor();
    await shot('texts');

    const plain = await resultOf('generate_with_trace', { ...args, trace: false });
    await send('sendToolResult', plain.message);
    await view.locator('summary').first().click();
    await view.getByText('ended by length, without its trace').waitFor();
    expect(await view.locator('.token').count()).toBe(0);

    const one = await resultOf('generate_with_trace', { prompt: 'Once upon a time', max_tokens: 8, trace: false });
    await send('sendToolResult', one.message);
    await view.getByText(`${one.structured.output}`).waitFor();
  });

  test('a palette: swatches, details, all of 4096', async () => {
    const view = await open({ system: 'dark' });
    const { message } = await resultOf('palette', { n: 24, scheme: 'gay-mcp' });
    await send('sendToolResult', message);
    await expect.poll(() => view.getByRole('option').count()).toBe(24);
    expect(await background(view, '.cell')).toBe('rgb(230, 127, 134)');
    await view.getByRole('option').nth(1).hover();
    expect(await view.locator('.details').textContent()).toContain('#D06546');
    await shot('palette-dark');
    await send('sendToolResult', (await resultOf('palette', { n: 4096 })).message);
    await expect.poll(() => view.getByRole('option').count()).toBe(4096);
    await view.getByRole('option').first().focus();
    await page.keyboard.press('ArrowDown');
    const index = await view.locator('.details dd').first().textContent();
    expect(Number(index)).toBeGreaterThan(2);
    await shot('palette-4096-dark');
  });

  test('layers: shares, and a map of single weights', async () => {
    const view = await open();
    const { structured, message } = await resultOf('analyze_layer', { layer: 'model.layers.0.*' });
    await send('sendToolResult', message);
    const layers = structured.layers as { name: string; shape: [number, number]; scale: number }[];
    const colors = TRIT_COLORS as Record<string, string>;
    await expect.poll(() => view.getByRole('option').count()).toBe(layers.length);
    const width = (part: string) =>
      view
        .locator(`.layer .${part}`)
        .first()
        .evaluate((element) => element.getBoundingClientRect().width);
    const counts = (structured.layers as { counts: Record<string, number> }[])[0]!.counts;
    expect((await width('minus')) / (await width('plus'))).toBeCloseTo(counts.minus! / counts.plus!, 1);

    await view.getByRole('option').first().click();
    const canvas = view.locator('canvas');
    await canvas.waitFor();
    const place = view.locator('.place');
    await expect.poll(() => place.textContent()).toContain('row 0, column 0');
    const corner = { model: 'default', layer: layers[0]!.name, row: 0, column: 0 };
    const window = (await tritWindowText(corner, { services })).split('\n');
    // The canvas shows the trits in the colors of pictures; the legend names those of the seed, too.
    const painted = await canvas.evaluate(
      (element, [x, y]) => {
        const map = element as HTMLCanvasElement;
        const zoom = map.width / x!;
        const pen = map.getContext('2d')!;
        return Array.from({ length: 20 }, (_, column) => {
          const [r, g, b] = pen.getImageData((column + 0.5) * zoom, (y! + 0.5) * zoom, 1, 1).data;
          return `#${[r!, g!, b!].map((v) => v.toString(16).padStart(2, '0')).join('')}`.toUpperCase();
        });
      },
      [window[0]!.length, 10],
    );
    const expected = [...window[10]!]
      .slice(0, 20)
      .map((symbol) => colors[{ '-': 'minus', o: 'ergodic', '+': 'plus' }[symbol]!]);
    expect(painted).toEqual(expected);

    const ring = async () => {
      const [inner, outer] = [(await view.locator('.ring').boundingBox())!, (await canvas.boundingBox())!];
      return [(inner.x - outer.x) / inner.width, (inner.y - outer.y) / inner.height].map(Math.round);
    };
    expect(await ring()).toEqual([0, 0]);
    await canvas.focus();
    for (const key of ['ArrowDown', 'ArrowRight', 'ArrowRight']) await page.keyboard.press(key);
    const symbol = window[1]![2]!;
    expect(await place.textContent()).toContain(`row 1, column 2: ${symbol} `);
    expect(await ring()).toEqual([2, 1]);
    await shot('ring');
    await page.keyboard.press('End');
    await expect.poll(() => place.textContent()).toContain(`row 1, column ${layers[0]!.shape[1] - 1}`);
    await page.keyboard.press('PageDown');
    await expect.poll(() => place.textContent()).toContain(`row ${Math.min(129, layers[0]!.shape[0] - 1)},`);
    await canvas.hover({ position: { x: 3, y: 3 } });
    await expect.poll(() => place.textContent()).toMatch(/^row \d+, column \d+: [-o+] /);
    await shot('layers-light');
    await send('sendHostContextChange', { theme: 'dark' });
    await shot('layers-dark');
  });

  test('the overview shows where the window is, and a click goes there', async () => {
    const view = await open();
    const { message } = await resultOf('analyze_layer', { layer: 'model.layers.0.mlp.down_proj.weight' });
    await send('sendToolResult', message);
    expect(await view.locator('.legend').textContent()).toBe('-10+1the seed’s:#6404C3#EB6AF7#7F1747');
    await view.getByRole('option').first().click();
    const place = view.locator('.place');
    await expect.poll(() => place.textContent()).toContain('row 0, column 0');
    const box = view.locator('.overview');
    const shareOf = () =>
      box.locator('i').evaluate((mark) => {
        const [inner, outer] = [mark.getBoundingClientRect(), mark.parentElement!.getBoundingClientRect()];
        return [(inner.left - outer.left) / outer.width, inner.width / outer.width, inner.height / outer.height].map(
          (share) => Math.round(share * 8) / 8,
        );
      });
    expect(await shareOf()).toEqual([0, 0.125, 0.25]);
    const { width, height } = (await box.boundingBox())!;
    await box.click({ position: { x: width * 0.8, y: height * 0.6 } });
    // 0.8 of 1,024 columns and 0.6 of 512 rows, less half a border.
    await expect.poll(() => place.textContent()).toMatch(/^row 30\d, column 8[12]\d: /);
    expect((await shareOf())[0]).toBe(0.75);
    await shot('overview');
  });

  test('a host that reads no resources shows shares and the picture', async () => {
    const view = await open({ capabilities: {} });
    await send('sendToolResult', (await resultOf('analyze_layer', { layer: '*layers.0.mlp*', image: true })).message);
    const picture = view.locator('.map img');
    await picture.waitFor();
    await expect
      .poll(() => picture.evaluate((element) => (element as HTMLImageElement).naturalWidth))
      .toBeGreaterThan(100);
    await view.getByRole('option').first().click();
    expect(await view.locator('canvas').count()).toBe(0);
    await view.getByText('ask for image: true').waitFor();
  });

  test.each([
    ['light', undefined, 'rgb(255, 255, 255)'],
    ['dark', undefined, 'rgb(28, 28, 30)'],
    ['dark', 'light', 'rgb(255, 255, 255)'],
    ['light', 'dark', 'rgb(28, 28, 30)'],
  ] as const)('system %s, host %s', async (system, theme, paper) => {
    const view = await open({ system, context: theme === undefined ? {} : { theme } });
    const paperNow = () => view.locator(':root').evaluate((element) => getComputedStyle(element).backgroundColor);
    await expect.poll(paperNow).toBe(paper);
    // The host's own colors win, also later.
    await send('sendHostContextChange', { styles: { variables: { '--color-background-primary': '#123456' } } });
    await expect.poll(paperNow).toBe('rgb(18, 52, 86)');
  });

  test('texts stand out from their ground (WCAG AA)', async () => {
    for (const theme of ['light', 'dark'] as const) {
      const view = await open({ context: { theme } });
      await send('sendToolResult', (await resultOf('generate_with_trace', { prompt: 'A', max_tokens: 30 })).message);
      await view.getByRole('option').first().waitFor();
      const pairs = await view.locator('main').evaluate((main) =>
        [...main.querySelectorAll('.token, .swatch, dt, dd, footer, figcaption, h1, .badge, .prompt')].map(
          (element) => {
            let ground: Element | null = element;
            while (ground && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)')
              ground = ground.parentElement;
            const numbers = (color: string) =>
              color
                .match(/[\d.]+/g)!
                .slice(0, 3)
                .map(Number);
            return {
              what: `${element.className || element.tagName}`,
              ink: numbers(getComputedStyle(element).color),
              ground: numbers(getComputedStyle(ground ?? document.documentElement).backgroundColor),
            };
          },
        ),
      );
      const luminance = (rgb: number[]) => {
        const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
      };
      expect(pairs.length).toBeGreaterThan(40);
      for (const { what, ink, ground } of pairs) {
        const [light, dark] = [luminance(ink), luminance(ground)].sort((a, b) => b - a);
        expect((light! + 0.05) / (dark! + 0.05), `${theme} ${what}`).toBeGreaterThanOrEqual(4.5);
      }
      if (theme === 'light') await page.close();
    }
  });

  test('tells its size, asks to expand only where that exists', async () => {
    const view = await open({ context: { displayMode: 'inline', availableDisplayModes: ['inline', 'fullscreen'] } });
    await send('sendToolResult', (await resultOf('palette', { n: 3 })).message);
    await view.getByRole('button', { name: 'expand' }).click();
    await expect.poll(() => page.evaluate(() => (globalThis as never as HostWindow).modes)).toEqual(['fullscreen']);
    await send('sendHostContextChange', { displayMode: 'fullscreen' });
    await expect.poll(() => view.getByRole('button', { name: 'expand' }).count()).toBe(0);
    const height = () => page.evaluate(() => (globalThis as never as HostWindow).sizes.at(-1)?.height ?? 0);
    await expect.poll(height).toBeGreaterThan(150);
    expect(await height()).toBeLessThan(600);
  });

  test('says what went wrong: an error, a cancelled call, a result it does not know', async () => {
    const view = await open();
    await send('sendToolResult', { isError: true, content: [{ type: 'text', text: 'index is missing <b>here</b>' }] });
    expect(await view.getByRole('alert').textContent()).toBe('index is missing <b>here</b>');
    await send('sendToolCancelled', { reason: 'user' });
    await view.getByText('cancelled: user').waitFor();
    await send('sendToolResult', { content: [], structuredContent: { colors: 'none' } });
    await view.getByText('This result cannot be shown').waitFor();
    await send('sendToolResult', { content: [], structuredContent: { colors: [{ hex: 'url(x)' }] } });
    await view.getByRole('alert').waitFor();
    // And goes on with the next.
    await send('sendToolResult', (await resultOf('palette', { n: 2 })).message);
    await expect.poll(() => view.getByRole('option').count()).toBe(2);
  });

  const TRACE = {
    model: 'other',
    output: 'User: hi<|eot_id|>a\u202eb<|im_end|>',
    completion: 'a\u202eb<|im_end|>',
    finish_reason: 'stop',
    seed: '1069',
    trit_sum: -3,
    gf3_residue: 0,
    gf3_conserved: true,
    trace: [
      {
        step: 0,
        token: 'a\u202e',
        token_id: 5,
        logprob: Math.log(0.25),
        color: '#6404C3',
        trit: -1,
        activations: [{ minus: 1, ergodic: 1, plus: 2 }],
        top_logprobs: [
          { token: '<b>x</b>', token_id: 7, logprob: Math.log(0.5) },
          { token: 'a\u202e', token_id: 5, logprob: Math.log(0.25) },
        ],
      },
      { step: 1, token: 'b', color: '#EB6AF7', trit: -1 },
      { step: 2, token: '<|im_end|>', logprob: -30, color: '#7F1747', trit: -1 },
      { step: 3, token: '', logprob: 0, color: '#4A4744', trit: 1 },
    ],
  };

  test('special tokens and characters that would hide are marks', async () => {
    const view = await open();
    await send('sendToolResult', { content: [], structuredContent: TRACE });
    await view.getByRole('option').first().waitFor();
    expect(await view.locator('.prompt .special').allTextContents()).toEqual(['<|eot_id|>']);
    expect(await view.locator('.token').allTextContents()).toEqual(['a⟨U+202E⟩', 'b', '<|im_end|>', '∅']);
    expect(await view.locator('.token .special').allTextContents()).toEqual(['<|im_end|>', '∅']);
    await shot('marks');
  });

  test('log-probability stands beside color: a line below each token, bars, and what else was likely', async () => {
    const view = await open();
    await send('sendToolResult', { content: [], structuredContent: TRACE });
    await view.getByRole('option').first().waitFor();
    const filled = await view
      .locator('.token')
      .evaluateAll((tokens) => tokens.map((token) => (token as HTMLElement).style.getPropertyValue('--p')));
    expect(filled).toEqual(['25.0%', '', '0.0%', '100.0%']);
    await view.getByText('Color and trit: of the position only.').waitFor();
    const bars = await view
      .locator('.surprise')
      .evaluateAll((all) => all.map((bar) => Number(Number(bar.getAttribute('height')).toFixed(1))));
    // 60 units for the least of them, -30 nats; a token of probability 1 leaves a trace of its bar.
    expect(bars).toEqual([2.8, 0, 60, 1.2]);
    const likely = view.locator('.alternatives');
    expect(await likely.locator('code').allTextContents()).toEqual(['<b>x</b>', 'a⟨U+202E⟩']);
    expect(await likely.locator('code.chosen').allTextContents()).toEqual(['a⟨U+202E⟩']);
    expect(await likely.textContent()).toContain('-0.693 (50.0%)');
    await view.getByRole('option').nth(1).hover();
    expect(await view.locator('.details').textContent()).toContain('not told');
    expect(await likely.count()).toBe(0);
  });

  test('one set of colors for trits, that of the pictures', async () => {
    expect(Object.values(TRIT_COLORS)).toEqual(Object.values(CONTRAST_COLORS).map(({ hex }) => hex));
    const grounds = (view: FrameLocator, within: string) =>
      Promise.all(['minus', 'ergodic', 'plus'].map((name) => background(view, `${within} .bar .${name}`)));
    const three = ['rgb(10, 28, 102)', 'rgb(244, 240, 230)', 'rgb(205, 91, 10)'];
    const view = await open();
    await send('sendToolResult', { content: [], structuredContent: TRACE });
    await view.locator('.activations .bar').first().waitFor();
    expect(await grounds(view, '.activations')).toEqual(three);
    await send('sendToolResult', (await resultOf('analyze_layer', { layer: '*.0.mlp.*' })).message);
    await view.locator('.layers .bar').first().waitFor();
    expect(await grounds(view, '.layers')).toEqual(three);
  });

  test.each([3, 300])('a palette of %i shows trits', async (n) => {
    const view = await open();
    const { structured, message } = await resultOf('palette', { n });
    await send('sendToolResult', message);
    await expect.poll(() => view.getByRole('option').count()).toBe(n);
    const signs = (structured.colors as { trit: number }[]).map(({ trit }) => ({ [-1]: '-', 0: 'o', 1: '+' })[trit]);
    const shown = await view.locator(n === 3 ? '.cell .trit' : '.cell').allTextContents();
    expect(shown).toEqual(signs);
    const plus = signs.filter((sign) => sign === '+').length;
    expect(await view.locator('footer').textContent()).toContain(`${plus} + PLUS`);
    if (n === 300) await shot('palette-300');
  });

  test('the ring of a selection stands out on both papers, and is not covered by what follows', async () => {
    for (const theme of ['light', 'dark'] as const) {
      const view = await open({ context: { theme } });
      await send('sendToolResult', (await resultOf('palette', { n: 12 })).message);
      const cell = view.getByRole('option').nth(4);
      await cell.click();
      const { x, y, width, height } = (await cell.boundingBox())!;
      const png = await page.screenshot({ clip: { x: x - 6, y: y - 6, width: width + 12, height: height + 12 } });
      const { decode } = await import('fast-png');
      const { data, width: across, channels } = decode(png);
      // Three pixels outside the cell is the ring, one is the paper inside it: on all four sides.
      const at = (column: number, row: number) => {
        const from = channels * (Math.round(row) * across + Math.round(column));
        return data[from]! + data[from + 1]! + data[from + 2]!;
      };
      for (const [dx, dy] of [
        [0, -1],
        [0, 1],
        [-1, 0],
        [1, 0],
      ] as const) {
        const edge = (out: number) =>
          at(6 + width / 2 + dx * (width / 2 + out) - 0.5, 6 + height / 2 + dy * (height / 2 + out) - 0.5);
        expect(Math.abs(edge(3.5) - edge(1.5)), `${theme} ${dx} ${dy}`).toBeGreaterThan(450);
      }
      if (theme === 'light') await page.close();
    }
  });

  const STEP = {
    world_before: 'a'.repeat(64),
    world_after: 'b'.repeat(64),
    loss_before: 4.5,
    loss_after: 2.25,
    wev: 2.25,
    wev_ratio: 1,
    layers: [
      { name: 'model.layers.0.mlp.up_proj.weight', flips: 0, trit_delta_sum: 0 },
      { name: 'model.layers.1.mlp.up_proj.weight', flips: 10, trit_delta_sum: -2 },
      { name: 'model.layers.2.mlp.up_proj.weight', flips: 30, trit_delta_sum: 5 },
    ],
    unchanged_layers: 36,
    trit_delta_sum: 3,
    gf3_residue: 0,
    conserved: true,
    morphism_color: { index: 709, hex: '#C6CB48', trit: 1 },
  };

  test('a training step: losses, flips by layer, the worlds', async () => {
    const view = await open();
    await send('sendToolResult', { content: [], structuredContent: STEP });
    const rows = view.getByRole('option');
    await expect.poll(() => rows.count()).toBe(2);
    const text = (await view.locator('main').textContent())!;
    for (const fact of [
      'aaaaaaaaaaaa',
      'bbbbbbbbbbbb',
      '4.5000 → 2.2500',
      '+2.25, ratio +1',
      '40 in 2 of 39 layers',
      '3 mod 3 = 0',
      '✓ conserved',
      'index 709, + PLUS',
    ]) {
      expect(text).toContain(fact);
    }
    expect(await rows.allTextContents()).toEqual(['model.layers.2.mlp.up_proj30', 'model.layers.1.mlp.up_proj10']);
    const widths = await view
      .locator('.losses .loss')
      .evaluateAll((bars) => bars.map((bar) => bar.getBoundingClientRect().width));
    expect(widths[1]! / widths[0]!).toBeCloseTo(0.5, 1);
    expect(await background(view, '.details .swatch')).toBe('rgb(198, 203, 72)');
    await rows.nth(1).click();
    await expect.poll(() => view.locator('.details').last().textContent()).toContain('10 (25.0% of the step’s)');
    await expect
      .poll(() => page.evaluate(() => (globalThis as never as HostWindow).told.at(-1)!.content[0]!.text))
      .toContain('flipped 10 of its trits');
    await shot('step-light');
    await send('sendHostContextChange', { theme: 'dark' });
    await shot('step-dark');
    const none = { ...STEP, layers: STEP.layers.slice(0, 1) };
    await send('sendToolResult', { content: [], structuredContent: none });
    await view.getByText('none: only embedding, norms and scales moved').waitFor();
    expect(await rows.count()).toBe(0);
  });

  test('narrow, nothing runs over the edge', async () => {
    for (const theme of ['light', 'dark'] as const) {
      const view = await open({ context: { theme }, width: 340 });
      const results = {
        trace: (
          await resultOf('generate_with_trace', { prompt: 'Once upon a time', max_tokens: 20, activations: true })
        ).message,
        layers: (await resultOf('analyze_layer', { layer: 'model.layers.0.*' })).message,
        palette: (await resultOf('palette', { n: 24 })).message,
        marks: { content: [], structuredContent: TRACE },
        step: { content: [], structuredContent: STEP },
      };
      for (const [name, result] of Object.entries(results)) {
        await send('sendToolResult', result);
        await view.getByRole('option').first().click();
        if (name === 'layers') await expect.poll(() => view.locator('.place').textContent()).toContain('row 0');
        const over = await view.locator(':root').evaluate((root) => root.scrollWidth - root.clientWidth);
        await shot(`narrow-${name}-${theme}`);
        expect(over, `${theme} ${name}`).toBeLessThanOrEqual(0);
      }
      if (theme === 'light') await page.close();
    }
  });

  test('text of a model is never markup', async () => {
    const view = await open();
    const { message } = await resultOf('generate_with_trace', {
      prompt: '<img src=x onerror=alert(1)><script>alert(2)</script>',
      max_tokens: 2,
    });
    await send('sendToolResult', message);
    await view.getByText('<img src=x').first().waitFor();
    expect(await view.locator('main img, main script').count()).toBe(0);
  });

  test('its own policy stops what a host would allow', async () => {
    const evil = VIEW_HTML.replace('</body>', '<script>document.title = "ran"</script></body>');
    const view = await open({ html: evil });
    expect(await view.locator('title').evaluate((element) => element.textContent)).toBe('bitnet-gf3');
    await expect.poll(() => complaints.join()).toContain('Content Security Policy');
    complaints.length = 0;
  });

  test('answers teardown, and ping and unknown requests as JSON-RPC wants', async () => {
    await open();
    expect(await send('teardownResource', {})).toEqual({});
    // The bridge has no call for these two: as raw messages.
    const answers = await page.evaluate(async () => {
      const frame = document.querySelector('iframe')!.contentWindow!;
      const ask = (id: string, method: string) =>
        new Promise((resolve) => {
          const listen = ({ data }: MessageEvent) => {
            if (data.id !== id || data.method !== undefined) return;
            window.removeEventListener('message', listen, true);
            resolve(data);
          };
          window.addEventListener('message', listen, true);
          frame.postMessage({ jsonrpc: '2.0', id, method }, '*');
        });
      return [await ask('p', 'ping'), await ask('u', 'no/such')];
    });
    expect(answers).toMatchObject([{ result: {} }, { error: { code: -32601 } }]);
    // The bridge itself wonders about answers to what it did not ask.
    complaints.length = 0;
  });
});
