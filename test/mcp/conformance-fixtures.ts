// The server that the official conformance suite asks for: tools, resources and prompts with fixed names and answers,
// behind our own HTTP stack, which is what is tested. scripts/conformance.mjs builds and runs it; no product loads it.
//   node conformance-fixtures.js   prints its address as JSON, ends at SIGTERM

import { setTimeout as sleep } from 'node:timers/promises';
import {
  acceptedContent,
  type CallToolResult,
  completable,
  createRequestStateCodec,
  fromJsonSchema,
  InMemoryServerEventBus,
  type InputRequiredResult,
  inputRequired,
  inputResponse,
  McpServer,
  ResourceTemplate,
  type ServerContext,
} from '@modelcontextprotocol/server';
import { z } from 'zod';
import { HttpServer } from '../../src/mcp/http/http-server.ts';
import { Metrics } from '../../src/mcp/http/metrics.ts';

const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==';
/** 44 bytes of header and no samples. */
const WAV = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=';

const bus = new InMemoryServerEventBus();
const stateCodec = createRequestStateCodec<{ step: string }>({ key: '0123456789abcdef0123456789abcdef' });

const text = (value: string): CallToolResult => ({ content: [{ type: 'text', text: value }] });

type Answer = CallToolResult | InputRequiredResult;
type Run = (args: Record<string, unknown>, context: ServerContext) => Answer | Promise<Answer>;

function addTools(server: McpServer): void {
  const tool = (name: string, run: Run, inputSchema = z.looseObject({})) =>
    server.registerTool(name, { description: `Fixture of the conformance suite: ${name}`, inputSchema }, run);

  tool('test_simple_text', () => text('This is a simple text response for testing.'));
  tool('test_image_content', () => ({ content: [{ type: 'image', data: PNG, mimeType: 'image/png' }] }));
  tool('test_audio_content', () => ({ content: [{ type: 'audio', data: WAV, mimeType: 'audio/wav' }] }));
  tool('test_embedded_resource', () => ({
    content: [
      {
        type: 'resource',
        resource: {
          uri: 'test://embedded-resource',
          mimeType: 'text/plain',
          text: 'This is an embedded resource content.',
        },
      },
    ],
  }));
  tool('test_multiple_content_types', () => ({
    content: [
      { type: 'text', text: 'Multiple content types test:' },
      { type: 'image', data: PNG, mimeType: 'image/png' },
      {
        type: 'resource',
        resource: {
          uri: 'test://mixed-content-resource',
          mimeType: 'application/json',
          text: JSON.stringify({ test: 'data', value: 123 }),
        },
      },
    ],
  }));
  tool('test_tool_with_logging', async (_args, { mcpReq }) => {
    await mcpReq.log('info', 'Tool execution started');
    await sleep(50);
    await mcpReq.log('info', 'Tool processing data');
    await sleep(50);
    await mcpReq.log('info', 'Tool execution completed');
    return text('logged');
  });
  tool('test_logging_tool', async (_args, { mcpReq }) => {
    await mcpReq.log('info', 'a line');
    return text('logged, if that was asked for');
  });
  tool('test_tool_with_progress', async (_args, { mcpReq }) => {
    const progressToken = mcpReq._meta?.progressToken;
    for (const progress of [0, 50, 100]) {
      if (progressToken !== undefined) {
        await mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
      }
      if (progress < 100) await sleep(50);
    }
    return text('done');
  });
  tool('test_error_handling', () => {
    throw new Error('This tool intentionally returns an error for testing');
  });
  tool('test_reconnection', async (_args, { http }) => {
    http?.closeSSE?.();
    await sleep(100);
    return text('still here after the stream was closed');
  });
  tool(
    'test_sampling',
    async ({ prompt }, { mcpReq }) => {
      const { content } = await mcpReq.requestSampling({
        messages: [{ role: 'user', content: { type: 'text', text: String(prompt) } }],
        maxTokens: 100,
      });
      return text(`LLM response: ${textOf(content)}`);
    },
    z.looseObject({ prompt: z.string() }),
  );
  tool(
    'test_elicitation',
    async ({ message }, { mcpReq }) => {
      const field = { type: 'string' as const };
      const answer = await mcpReq.elicitInput({
        message: String(message),
        requestedSchema: {
          type: 'object',
          properties: {
            username: { ...field, description: "User's response" },
            email: { ...field, description: "User's email address" },
          },
          required: ['username', 'email'],
        },
      });
      return text(`User response: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
    },
    z.looseObject({ message: z.string() }),
  );
  tool('test_elicitation_sep1034_defaults', async (_args, { mcpReq }) => {
    const answer = await mcpReq.elicitInput({
      message: 'Review the defaults',
      requestedSchema: {
        type: 'object',
        properties: {
          name: { type: 'string', default: 'John Doe' },
          age: { type: 'integer', default: 30 },
          score: { type: 'number', default: 95.5 },
          status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
          verified: { type: 'boolean', default: true },
        },
      },
    });
    return text(`Elicitation completed: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
  });
  tool('test_elicitation_sep1330_enums', async (_args, { mcpReq }) => {
    const titled = (values: readonly string[], ordinals: string) =>
      values.map((value, i) => ({ const: value, title: `${['First', 'Second', 'Third'][i]} ${ordinals}` }));
    const options = ['option1', 'option2', 'option3'];
    const values = ['value1', 'value2', 'value3'];
    const answer = await mcpReq.elicitInput({
      message: 'Choose',
      requestedSchema: {
        type: 'object',
        properties: {
          untitledSingle: { type: 'string', enum: options },
          titledSingle: { type: 'string', oneOf: titled(values, 'Option') },
          legacyEnum: {
            type: 'string',
            enum: ['opt1', 'opt2', 'opt3'],
            enumNames: ['Option One', 'Option Two', 'Option Three'],
          },
          untitledMulti: { type: 'array', items: { type: 'string', enum: options } },
          titledMulti: { type: 'array', items: { anyOf: titled(values, 'Choice') } },
        },
      },
    });
    return text(`Elicitation completed: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
  });
  // Of a client that did not declare sampling the SDK asks nothing: it refuses the call.
  tool('test_missing_capability', () =>
    inputRequired({ inputRequests: { question: askModel('Is sampling there?', 10) } }),
  );
  tool('test_trigger_tool_change', () => {
    bus.publish({ kind: 'tools_list_changed' });
    return text('told');
  });
  tool('test_trigger_prompt_change', () => {
    bus.publish({ kind: 'prompts_list_changed' });
    return text('told');
  });

  server.registerTool(
    'json_schema_2020_12_tool',
    { description: 'Tool with JSON Schema 2020-12 features', inputSchema: fromJsonSchema(JSON_SCHEMA_2020_12) },
    () => text('ok'),
  );
  server.registerTool(
    'test_header_parameter',
    {
      description: 'A parameter that clients repeat in a header',
      inputSchema: fromJsonSchema({
        type: 'object',
        properties: { region: HEADER_PARAMETER },
      }),
    },
    (args) => text(`region: ${(args as { region?: string }).region ?? 'none'}`),
  );
  addMultiRoundTools(tool);
}

/** Not JSON Schema's own keyword, hence apart: a literal in place would not be let through by the types. */
const HEADER_PARAMETER = { type: 'string', 'x-mcp-header': 'Region' } as const;

const JSON_SCHEMA_2020_12 = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: 'object' as const,
  $defs: {
    address: {
      $anchor: 'addressDef',
      type: 'object',
      properties: { street: { type: 'string' }, city: { type: 'string' } },
    },
  },
  properties: {
    name: { type: 'string' },
    address: { $ref: '#/$defs/address' },
    contactMethod: { type: 'string', enum: ['phone', 'email'] },
    phone: { type: 'string' },
    email: { type: 'string' },
  },
  allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
  if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: { required: ['phone'] },
  else: { required: ['email'] },
  additionalProperties: false,
};

const ask = (message: string, key: string) =>
  inputRequired.elicit({
    message,
    requestedSchema: { type: 'object', properties: { [key]: { type: 'string' } }, required: [key] },
  });
const askYesNo = (message: string, key: string) =>
  inputRequired.elicit({
    message,
    requestedSchema: { type: 'object', properties: { [key]: { type: 'boolean' } }, required: [key] },
  });
const askModel = (question: string, maxTokens: number) =>
  inputRequired.createMessage({
    messages: [{ role: 'user', content: { type: 'text', text: question } }],
    maxTokens,
  });

function addMultiRoundTools(tool: (name: string, run: Run) => void): void {
  const nameFrom = ({ mcpReq }: ServerContext, key: string, field: string) => {
    const value = acceptedContent(mcpReq.inputResponses, key)?.[field];
    return typeof value === 'string' ? value : undefined;
  };

  const askName: Run = (_args, context) => {
    const name = nameFrom(context, 'user_name', 'name');
    if (name !== undefined) return text(`Hello, ${name}!`);
    return inputRequired({ inputRequests: { user_name: ask('What is your name?', 'name') } });
  };
  tool('test_input_required_result_elicitation', askName);
  tool('test_streaming_elicitation', askName);

  tool('test_input_required_result_sampling', (_args, { mcpReq }) => {
    const answer = inputResponse(mcpReq.inputResponses, 'capital_question');
    if (answer.kind === 'sampling') return text(`The model says: ${textOf(answer.result.content)}`);
    return inputRequired({ inputRequests: { capital_question: askModel('What is the capital of France?', 100) } });
  });
  tool('test_input_required_result_list_roots', (_args, { mcpReq }) => {
    const answer = inputResponse(mcpReq.inputResponses, 'client_roots');
    if (answer.kind === 'roots') return text(`Roots: ${answer.roots.map(({ uri }) => uri).join(', ')}`);
    return inputRequired({ inputRequests: { client_roots: inputRequired.listRoots() } });
  });
  const confirm: Run = async (_args, context) => {
    const { mcpReq } = context;
    const state = mcpReq.requestState<{ step: string }>();
    if (state?.step === 'confirm' && acceptedContent(mcpReq.inputResponses, 'confirm') !== undefined) {
      return text('state-ok');
    }
    return inputRequired({
      inputRequests: { confirm: askYesNo('Please confirm', 'ok') },
      requestState: await stateCodec.mint({ step: 'confirm' }, context),
    });
  };
  tool('test_input_required_result_request_state', confirm);
  tool('test_input_required_result_tampered_state', confirm);

  tool('test_input_required_result_multiple_inputs', async (_args, context) => {
    const { inputResponses } = context.mcpReq;
    const greeting = inputResponse(inputResponses, 'greeting');
    const roots = inputResponse(inputResponses, 'client_roots');
    const name = nameFrom(context, 'user_name', 'name');
    if (name !== undefined && greeting.kind === 'sampling' && roots.kind === 'roots') {
      return text(`${textOf(greeting.result.content)}, ${name} (${roots.roots.length} roots)`);
    }
    return inputRequired({
      inputRequests: {
        user_name: ask('What is your name?', 'name'),
        greeting: askModel('Generate a greeting', 50),
        client_roots: inputRequired.listRoots(),
      },
      requestState: await stateCodec.mint({ step: 'multiple' }, context),
    });
  });
  tool('test_input_required_result_multi_round', async (_args, context) => {
    const state = context.mcpReq.requestState<{ step: string }>();
    if (state?.step.startsWith('color for ') && nameFrom(context, 'step2', 'color') !== undefined) {
      return text(`${state.step.slice('color for '.length)} likes ${nameFrom(context, 'step2', 'color')}`);
    }
    const name = nameFrom(context, 'step1', 'name');
    if (state?.step === 'name' && name !== undefined) {
      return inputRequired({
        inputRequests: { step2: ask('Step 2: What is your favorite color?', 'color') },
        requestState: await stateCodec.mint({ step: `color for ${name}` }, context),
      });
    }
    return inputRequired({
      inputRequests: { step1: ask('Step 1: What is your name?', 'name') },
      requestState: await stateCodec.mint({ step: 'name' }, context),
    });
  });
  tool('test_input_required_result_capabilities', (_args, { mcpReq }) => {
    if (mcpReq.inputResponses !== undefined) return text('thank you');
    const inputRequests = {
      ...(declares(mcpReq, 'elicitation') && { user_name: ask('What is your name?', 'name') }),
      ...(declares(mcpReq, 'sampling') && { greeting: askModel('Generate a greeting', 50) }),
      ...(declares(mcpReq, 'roots') && { client_roots: inputRequired.listRoots() }),
    };
    return Object.keys(inputRequests).length === 0 ? text('nothing to ask') : inputRequired({ inputRequests });
  });
}

function declares({ envelope }: ServerContext['mcpReq'], capability: string): boolean {
  const capabilities = (envelope as Record<string, unknown> | undefined)?.[
    'io.modelcontextprotocol/clientCapabilities'
  ];
  return typeof capabilities === 'object' && capabilities !== null && capability in capabilities;
}

function textOf(content: unknown): string {
  const [first] = Array.isArray(content) ? content : [content];
  return (first as { text?: string } | undefined)?.text ?? '';
}

function addResources(server: McpServer): void {
  const about = (name: string) => ({ description: `Fixture of the conformance suite: ${name}` });
  server.registerResource('static-text', 'test://static-text', { ...about('text'), mimeType: 'text/plain' }, (uri) => ({
    contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'This is the content of the static text resource.' }],
  }));
  server.registerResource(
    'static-binary',
    'test://static-binary',
    { ...about('binary'), mimeType: 'image/png' },
    (uri) => ({ contents: [{ uri: uri.href, mimeType: 'image/png', blob: PNG }] }),
  );
  server.registerResource(
    'watched-resource',
    'test://watched-resource',
    { ...about('watched'), mimeType: 'text/plain' },
    (uri) => ({ contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'watched' }] }),
  );
  server.registerResource(
    'template',
    new ResourceTemplate('test://template/{id}/data', { list: undefined }),
    { ...about('template'), mimeType: 'application/json' },
    (uri, { id }) => ({
      contents: [
        {
          uri: uri.href,
          mimeType: 'application/json',
          text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }),
        },
      ],
    }),
  );
}

function addPrompts(server: McpServer): void {
  const about = (name: string) => ({ description: `Fixture of the conformance suite: ${name}` });
  const says = (value: string) => ({ role: 'user' as const, content: { type: 'text' as const, text: value } });
  server.registerPrompt('test_simple_prompt', about('simple'), () => ({
    messages: [says('This is a simple prompt for testing.')],
  }));
  server.registerPrompt(
    'test_prompt_with_arguments',
    {
      ...about('arguments'),
      argsSchema: z.object({
        arg1: completable(z.string().describe('First test argument'), (start) =>
          ['paris', 'park', 'party'].filter((value) => value.startsWith(start)),
        ),
        arg2: z.string().describe('Second test argument'),
      }),
    },
    ({ arg1, arg2 }) => ({ messages: [says(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)] }),
  );
  server.registerPrompt(
    'test_prompt_with_embedded_resource',
    { ...about('resource'), argsSchema: z.object({ resourceUri: z.string() }) },
    ({ resourceUri }) => ({
      messages: [
        {
          role: 'user',
          content: {
            type: 'resource',
            resource: { uri: resourceUri, mimeType: 'text/plain', text: 'Embedded resource content for testing.' },
          },
        },
        says('Please process the embedded resource above.'),
      ],
    }),
  );
  server.registerPrompt('test_prompt_with_image', about('image'), () => ({
    messages: [
      { role: 'user', content: { type: 'image', data: PNG, mimeType: 'image/png' } },
      says('Please analyze the image above.'),
    ],
  }));
  server.registerPrompt('test_input_required_result_prompt', about('input'), (context) => {
    const answer = acceptedContent(context.mcpReq.inputResponses, 'user_context');
    if (answer !== undefined) return { messages: [says(`Context: ${String(answer.context)}`)] };
    return inputRequired({
      inputRequests: { user_context: ask('What context should the prompt use?', 'context') },
    });
  });
}

export function createFixtures(): McpServer {
  const server = new McpServer(
    { name: 'bitnet-gf3-conformance', version: '0' },
    {
      capabilities: {
        logging: {},
        resources: { subscribe: true, listChanged: true },
        tools: { listChanged: true },
        prompts: { listChanged: true },
      },
      requestState: { verify: stateCodec.verify },
    },
  );
  addTools(server);
  addResources(server);
  addPrompts(server);
  // Of the 2025 protocol only; the watched resource never changes.
  server.server.setRequestHandler('resources/subscribe', () => ({}));
  server.server.setRequestHandler('resources/unsubscribe', () => ({}));
  return server;
}

const http = new HttpServer({
  host: '127.0.0.1',
  port: 0,
  tokens: [],
  allowedHosts: [],
  allowedOrigins: [],
  requestsPerSecond: 10_000,
  maxSessions: 200,
  maxSessionsPerClient: 200,
  sessionIdleMs: 60_000,
  behindProxy: false,
  drainMs: 500,
  createServer: createFixtures,
  bus,
  metrics: new Metrics(),
  onError: (error) => process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`),
});
process.once('SIGTERM', () => void http.close());
process.stdout.write(`${JSON.stringify(await http.listen())}\n`);
