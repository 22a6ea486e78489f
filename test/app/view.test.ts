// The MCP App in a real browser, inside a frame as hosts make it, with results of the real tools.

import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { type Browser, chromium, type FrameLocator, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { buildViewHtml, moduleOf } from '../../scripts/build-app.mjs';
import { VIEW_HTML } from '../../src/app/view-html.ts';
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
  expect(Buffer.byteLength(VIEW_HTML)).toBeLessThan(24 * 1024);
  const addresses = [...VIEW_HTML.matchAll(/https?:\/\/[^"'\s)]+/g)].map(([address]) => address);
  // The name of a language, which nothing loads.
  expect(new Set(addresses)).toEqual(new Set(['http://www.w3.org/2000/svg']));
  expect(VIEW_HTML).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(/);
});

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
    browser = await chromium.launch({ executablePath: chromiumPath!, args: ['--no-sandbox'] });
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
  };

  /** The view in its frame, connected. */
  async function open({
    capabilities = ALL_CAPABILITIES,
    context = {},
    system = 'light',
    html = VIEW_HTML,
  }: Setting = {}) {
    page = await browser.newPage({ viewport: { width: 760, height: 900 }, colorScheme: system });
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
    await page.waitForTimeout(200);
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
    const colors = structured.colors as Record<string, string>;
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
    // The canvas shows the trits in the result's colors.
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

    await canvas.focus();
    for (const key of ['ArrowDown', 'ArrowRight', 'ArrowRight']) await page.keyboard.press(key);
    const symbol = window[1]![2]!;
    expect(await place.textContent()).toContain(`row 1, column 2: ${symbol} `);
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
