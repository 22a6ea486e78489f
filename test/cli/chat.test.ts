// The chat as a person has it at a terminal, and as a program has it through a pipe.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readChatLine } from '../../src/cli/chat-commands.ts';
import { Conversation, toMarkdown } from '../../src/cli/conversation.ts';
import { Flow } from '../../src/cli/flow.ts';
import { Engine } from '../../src/generate/engine.ts';
import { generateWith } from '../../src/generate/generate.ts';
import type { ChatMessage, GenerateResult } from '../../src/generate/types.ts';
import { hasPty, linesOf, talkAtTerminal } from './pty.ts';
import { MAIN, runCli } from './run-cli.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'chat-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const engine = new Engine();
const reply = (messages: ChatMessage[], maxTokens = 12) =>
  generateWith(engine, { model: 'default', messages, maxTokens });

/** The prompt, once the terminal waits for a line. */
const PROMPT = '> \x1b[0m\x1b[3G';

function withStdin(args: readonly string[], text: string) {
  return new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve) => {
    const child = spawn(process.execPath, [MAIN, ...args]);
    let [stdout, stderr] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (part) => {
      stdout += part;
    });
    child.stderr.setEncoding('utf8').on('data', (part) => {
      stderr += part;
    });
    child.on('close', (code) => resolve({ code, stdout, stderr }));
    child.stdin.end(text);
  });
}

describe('through a pipe', () => {
  test('the text is one turn, whatever it begins with', async () => {
    const { code, stdout, stderr } = await withStdin(['chat', '--max-tokens', '12'], '/help\nof a fox\n');
    const expected = await reply([{ role: 'user', content: '/help\nof a fox' }]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${expected.completion.trimEnd()}\n` });
    expect(stderr).toMatch(/^\d+ tokens at \d+\/s .*(token limit|end of text)\n$/);
  });

  test('with --json the whole result, and a system prompt first', async () => {
    const { stdout } = await withStdin(['chat', '--json', '--max-tokens', '5', '--system', 'Be kind.'], 'Hello');
    const expected = await reply(
      [
        { role: 'system', content: 'Be kind.' },
        { role: 'user', content: 'Hello' },
      ],
      5,
    );
    expect(JSON.parse(stdout)).toMatchObject({ completion: expected.completion, finish_reason: 'length' });
  });

  test.each([
    [['chat'], '', 'standard input is empty'],
    [['chat', '--thinking', 'maybe'], 'a', '--thinking maybe'],
    [['chat', '--logit-bias', 'x'], 'a', '--logit-bias x'],
    [['chat', '--model', '/nowhere'], 'a', '/nowhere'],
  ])('%j given %j fails in one line', async (args, text, message) => {
    const { code, stdout, stderr } = await withStdin(args, text);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(message);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  });
});

describe.skipIf(!hasPty)('at a terminal', () => {
  test('turns follow each other, up brings a line back, undo takes one back, and all of it is saved', async () => {
    const file = join(folder, 'all.json');
    const { code, screen } = await talkAtTerminal(
      ['chat', '--max-tokens', '12'],
      [
        { after: PROMPT, type: 'Tell me of a fox.\r' },
        { after: PROMPT, type: 'And then?\r' },
        { after: PROMPT, type: '/undo\r' },
        // /undo, And then?
        { after: PROMPT, type: '\x1b[A\x1b[A\r' },
        { after: PROMPT, type: `/save ${file}\r` },
        { after: PROMPT, type: '/exit\r' },
      ],
      { columns: 200 },
    );
    expect(code).toBe(0);
    expect(screen).toContain('taken back: And then?');
    const { exchanges } = JSON.parse(readFileSync(file, 'utf8'));
    const first = await reply([{ role: 'user', content: 'Tell me of a fox.' }]);
    const second = await reply([
      { role: 'user', content: 'Tell me of a fox.' },
      { role: 'assistant', content: first.completion },
      { role: 'user', content: 'And then?' },
    ]);
    expect(exchanges.map((one: { user: string }) => one.user)).toEqual(['Tell me of a fox.', 'And then?']);
    expect(exchanges.map((one: { reply: { completion: string } }) => one.reply.completion)).toEqual([
      first.completion,
      second.completion,
    ]);
    expect(screen.match(/\d+ tokens?( at \d+\/s)? \(/g)).toHaveLength(3);
  });

  test('Ctrl-C stops a reply and keeps the chat, with what was said', async () => {
    const file = join(folder, 'stopped.json');
    const { code, screen } = await talkAtTerminal(
      // Without an end of text: the story must not be over when Ctrl-C comes.
      ['chat', '--backend', 'js', '--max-tokens', '600', '--logit-bias', '1=-100', '--logit-bias', '2=-100'],
      [
        { after: PROMPT, type: 'Tell me a long story.\r' },
        { after: ' the', type: '\x03' },
        { after: PROMPT, type: `/save ${file}\r` },
        { after: PROMPT, type: '\x03' },
        { after: 'leaves', type: '\x03' },
      ],
    );
    expect(code).toBe(0);
    expect(linesOf(screen).join(' ')).toMatch(/\d+ tokens at .*stopped/);
    const { exchanges } = JSON.parse(readFileSync(file, 'utf8'));
    expect(exchanges[0].reply).toMatchObject({ finish_reason: 'cancelled' });
    expect(exchanges[0].reply.trace.length).toBeLessThan(600);
    expect(exchanges[0].reply.completion).toContain(' the');
  });

  test('pasted lines are one text, and so are lines that end in a backslash', async () => {
    const file = join(folder, 'pasted.md');
    const { screen } = await talkAtTerminal(
      ['chat', '--max-tokens', '3'],
      [
        { after: PROMPT, type: '\x1b[200~one\r/exit\rthree\x1b[201~ and more\r' },
        { after: 'token limit', type: '' },
        { after: PROMPT, type: 'first \\\r' },
        { after: '… ', type: 'second\r' },
        { after: PROMPT, type: `/save ${file}\r` },
        { after: PROMPT, type: '\x04' },
      ],
    );
    expect(screen).toContain('\x1b[?2004h');
    expect(screen.trimEnd().endsWith('\x1b[?2004l')).toBe(true);
    const saved = readFileSync(file, 'utf8');
    expect(saved).toContain('**User**\n\none\n/exit\nthree and more\n');
    expect(saved).toContain('**User**\n\nfirst \nsecond\n');
  });

  test('without colors nothing is colored, and lines are broken between words at 30 columns', async () => {
    const plain = '> \x1b[3G';
    const { screen } = await talkAtTerminal(
      ['chat', '--max-tokens', '40'],
      [
        { after: plain, type: 'Tell me of a fox.\r' },
        { after: plain, type: '/trace\r' },
        { after: plain, type: 'More.\r' },
        { after: plain, type: '\x04' },
      ],
      { columns: 30, env: { NO_COLOR: '1' } },
    );
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what terminals are told
    expect(screen).not.toMatch(/\x1b\[[0-9;]*m/);
    const lines = linesOf(screen);
    expect(lines.filter((line) => line.length > 30 && !line.startsWith('>'))).toEqual([]);
    const first = await reply([{ role: 'user', content: 'Tell me of a fox.' }], 40);
    expect(lines.join('\n').replace(/\s+/g, ' ')).toContain(first.completion.trim().replace(/\s+/g, ' '));
    expect(lines.filter((line) => /^ {2}\[[-o+]\] #[0-9A-F]{6} +-?\d\.\d\d /.test(line)).length).toBeGreaterThan(20);
    expect(screen).toMatch(/GF\(3\) trit sum/);
  });

  test('commands say what they did, and what is wrong does not end the chat', async () => {
    const page = join(folder, 'last.html');
    const { code, screen } = await talkAtTerminal(
      ['chat', '--max-tokens', '6'],
      [
        { after: PROMPT, type: '/sytem x\r' },
        { after: 'did you mean /system', type: '' },
        { after: PROMPT, type: '/system Be brief.\r' },
        { after: 'system: Be brief.', type: '' },
        { after: PROMPT, type: '/model /nowhere\r' },
        { after: 'error:', type: '' },
        { after: PROMPT, type: '/model\r' },
        { after: 'model: default', type: '' },
        { after: PROMPT, type: `/save ${page}\r` },
        { after: 'no reply to draw yet', type: '' },
        { after: PROMPT, type: 'Hello\r' },
        { after: 'token limit', type: '' },
        { after: PROMPT, type: `/save ${page}\r` },
        { after: 'wrote', type: '' },
        { after: PROMPT, type: '/save /nowhere/at/all.md\r' },
        { after: 'error:', type: '' },
        { after: PROMPT, type: '/thought\r' },
        { after: 'no thought', type: '' },
        { after: PROMPT, type: '/help\r' },
        { after: '/undo', type: '' },
        { after: PROMPT, type: '/exit\r' },
      ],
      { columns: 120 },
    );
    expect(screen).not.toContain('never printed');
    expect(code).toBe(0);
    expect(readFileSync(page, 'utf8')).toContain('6 tokens by default');
  });
});

test('no argument is taken for words', async () => {
  const { code, stderr } = await runCli(['chat', 'hello']);
  expect(code).toBe(2);
  expect(stderr).toContain('hello');
});

test('a turn reads only what is new', async () => {
  const history: ChatMessage[] = [
    { role: 'user', content: 'Tell me of a fox that lives near the lake and has a striped sock.' },
  ];
  const first = await reply(history, 30);
  const next: ChatMessage[] = [
    ...history,
    { role: 'assistant', content: first.completion },
    { role: 'user', content: 'More.' },
  ];
  const read: number[] = [];
  const second = await generateWith(
    engine,
    { model: 'default', messages: next, maxTokens: 2 },
    { onPrompt: (done) => read.push(done) },
  );
  let rows = 0;
  await engine.use({ model: 'default' }, async ({ executable }) => {
    const step = executable.step.bind(executable);
    executable.step = (input) => {
      rows += input.tokens.length;
      return step(input);
    };
    await Promise.resolve();
  });
  const third: ChatMessage[] = [
    ...next,
    { role: 'assistant', content: second.completion },
    { role: 'user', content: 'And?' },
  ];
  const { usage } = await reply(third, 1);
  expect(rows).toBeGreaterThan(0);
  expect(rows).toBeLessThan(usage.promptTokens! / 2);
});

describe('what a line means', () => {
  test.each([
    ['', { kind: 'nothing' }],
    ['  ', { kind: 'nothing' }],
    ['hello', { kind: 'say', text: 'hello' }],
    ['//etc is a folder', { kind: 'say', text: '/etc is a folder' }],
    ['/system a  b', { kind: 'command', name: '/system', argument: 'a  b' }],
    ['/quit', { kind: 'command', name: '/exit', argument: '' }],
    ['/exit\nis a word', { kind: 'say', text: '/exit\nis a word' }],
    ['/hlep', { kind: 'unknown', what: 'no command /hlep: did you mean /help?' }],
  ])('%j', (text, meaning) => expect(readChatLine(text)).toEqual(meaning));
});

describe('a flow', () => {
  const flowed = (parts: readonly string[], width: number) => {
    let text = '';
    const flow = new Flow(
      (part) => (text += part),
      () => width,
    );
    for (const part of parts) flow.push(part);
    flow.end();
    return text;
  };

  test('breaks between words, however the text was cut', () => {
    const text = 'the little fox ran over the hill\n\nand home';
    for (const parts of [[text], [...text], text.match(/.{1,3}/gs)!]) {
      expect(flowed(parts, 12)).toBe('the little\nfox ran over\nthe hill\n\nand home');
      expect(flowed(parts, Number.POSITIVE_INFINITY)).toBe(text);
    }
  });

  test('leaves a text without spaces to the terminal, and counts wide characters as two', () => {
    expect(flowed(['東京は大きい町です'], 8)).toBe('東京は大きい町です');
    expect(flowed(['ab 東京 c'], 8)).toBe('ab 東京\nc');
  });

  test('lets nothing through that speaks to a terminal', () => {
    const shown = flowed(['a\x1b]0;title\x07b\x9b2Jc\rd\te\u0008'], 80);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they must not be there
    expect(shown).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
    expect(shown).toContain('\\u001b]0;title');
  });
});

test('a conversation leaves out its oldest exchanges, never the system prompt', () => {
  const conversation = new Conversation();
  conversation.system = 'S';
  const said = (completion: string) => ({ completion, model: 'm' }) as GenerateResult;
  conversation.add({ user: 'a', reply: said('A') });
  conversation.add({ user: 'b', reply: said('B') });
  expect(conversation.messages('c', 1).map(({ content }) => content)).toEqual(['S', 'b', 'B', 'c']);
  expect(
    conversation
      .messages('c')
      .map(({ role }) => role)
      .join(' '),
  ).toBe('system user assistant user assistant user');
  expect(toMarkdown(conversation)).toBe(
    '**System**\n\nS\n\n**User**\n\na\n\n**m**\n\nA\n\n**User**\n\nb\n\n**m**\n\nB\n',
  );
});
