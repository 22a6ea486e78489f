// What an OpenAI-compatible server may send: a body of any kind, cut anywhere. The first byte says where.

import { BitnetError } from '../../src/errors.ts';
import { END_OF_ANSWER, readAnswers } from '../../src/generate/openai/answer-body.ts';
import { readAnswerPart } from '../../src/generate/openai/chunk.ts';
import { TokenAccount } from '../../src/generate/openai/token-account.ts';

/** Rejects with what is no refusal of ours, and where the same bytes cut otherwise give something else. */
export async function fuzz(bytes: Uint8Array): Promise<void> {
  const body = bytes.subarray(1);
  const whole = await heard([body]);
  const size = 1 + ((bytes[0] ?? 0) % 13);
  const parts = Array.from({ length: Math.ceil(body.length / size) }, (_, i) =>
    body.subarray(i * size, (i + 1) * size),
  );
  const cut = await heard(parts);
  if (whole !== cut) throw new Error(`cut into parts of ${size} bytes it is another answer:\n${whole}\n${cut}`);
}

async function heard(parts: readonly Uint8Array[]): Promise<string> {
  const account = new TokenAccount();
  const told: unknown[] = [];
  try {
    for await (const object of readAnswers(streamOf(parts), { type: '', url: 'http://server.invalid/v1' })) {
      if (object === END_OF_ANSWER) {
        told.push('end');
        break;
      }
      const part = readAnswerPart(object);
      for (const piece of part.pieces) account.add(piece);
      told.push(part);
    }
    for (const counted of [undefined, 0, 5]) {
      for (const withEnd of [true, false]) {
        const { tokens, merged, unsure, hidden } = account.settle({ counted, withEnd });
        told.push([tokens, [...merged], [...unsure], hidden]);
      }
    }
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    if (error.message.length > 10_000) throw new Error('a message without end', { cause: error });
    told.push(error.message);
  }
  return JSON.stringify(told);
}

async function* streamOf(parts: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* parts;
}

const chunk = (fields: object) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, finish_reason: null, ...fields }] })}\n\n`;

export const SEEDS: readonly Uint8Array[] = [
  chunk({ text: 'Hi', logprobs: { tokens: ['Hi'], token_logprobs: [-0.5] }, token_ids: [7] }) +
    chunk({ text: '', finish_reason: 'stop' }),
  chunk({
    delta: { content: 'é猫', reasoning: 'hm' },
    logprobs: { content: [{ id: 8, token: '猫', bytes: [231, 140, 171], logprob: -1 }] },
  }),
  chunk({
    delta: {
      content: [
        { type: 'text', text: 'Hi' },
        { type: 'thinking', thinking: [{ text: 'hm' }] },
      ],
    },
  }),
  `: ping\r\n\r\nevent: error\r\ndata: {"message":"lost"}\r\n\r\n`,
  `data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9}}\n\ndata: [DONE]\n\n`,
  `data: {"object":"error","message":"stopped","code":500}\n\n`,
  `data: {"choices":[{"index":null,"text":"a\\ud83e","logprobs":{"token_logprobs":[NaN,-Infinity]}}]}\n\n`,
  `{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}`,
  `{"choices":[{"text":"a"}]}\n{"choices":[{"text":"b"}]}\n[DONE]\n`,
  `{\n "detail": [{"loc": ["body"], "msg": "field required"}]\n}`,
].map((body) => Buffer.from(`\x03${body}`));
