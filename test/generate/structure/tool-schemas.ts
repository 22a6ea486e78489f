// Arguments of tools as agents have them today: files, shells, browsers, issues, calendars, databases, maps, mail, and our own.
// Written after what their servers publish.

const s = { type: 'string' };
const n = { type: 'number' };
const i = { type: 'integer' };
const b = { type: 'boolean' };
const list = (items: object, more: object = {}) => ({ type: 'array', items, ...more });
const one = (...values: unknown[]) => ({ type: 'string', enum: values });
const o = (properties: Record<string, object>, required: string[] = Object.keys(properties), more: object = {}) => ({
  type: 'object',
  properties,
  required,
  ...more,
});
const closed = { additionalProperties: false };
const opt = (schema: object) => ({ anyOf: [schema, { type: 'null' }] });

export const TOOL_SCHEMAS: readonly object[] = [
  o({ path: s }, ['path'], closed),
  o({ path: s, tail: n, head: n }, ['path']),
  o({ paths: list(s, { minItems: 1 }) }),
  o({ path: s, content: s }, ['path', 'content'], closed),
  o({ path: s, edits: list(o({ oldText: s, newText: s }, ['oldText', 'newText'], closed)), dryRun: b }, [
    'path',
    'edits',
  ]),
  o({ path: s, pattern: s, excludePatterns: list(s) }, ['path', 'pattern']),
  o({ file_path: s, old_string: s, new_string: s, replace_all: b }, ['file_path', 'old_string', 'new_string'], closed),
  o(
    { file_path: s, offset: { type: 'integer', minimum: 0 }, limit: { type: 'integer', exclusiveMinimum: 0 } },
    ['file_path'],
    closed,
  ),
  o({ command: s, timeout: { type: 'number', maximum: 600000 }, description: s, run_in_background: b }, ['command']),
  o({ pattern: s, path: s, output_mode: one('content', 'files_with_matches', 'count'), '-A': n, '-i': b }, ['pattern']),
  o({
    todos: list(
      o({ content: { type: 'string', minLength: 1 }, status: one('pending', 'in_progress', 'completed'), id: s }, [
        'content',
        'status',
      ]),
    ),
  }),
  o({ url: { type: 'string', format: 'uri' }, prompt: s }),
  o(
    {
      url: { type: 'string', format: 'uri', minLength: 1 },
      max_length: { type: 'integer', exclusiveMinimum: 0, exclusiveMaximum: 1000000 },
      raw: b,
    },
    ['url'],
  ),
  o({ query: { type: 'string', minLength: 2 }, allowed_domains: list(s), blocked_domains: list(s) }, ['query']),
  o(
    {
      query: s,
      count: { type: 'integer', minimum: 1, maximum: 20 },
      offset: { type: 'integer', minimum: 0, maximum: 9 },
    },
    ['query'],
  ),
  o({ location: s, unit: one('celsius', 'fahrenheit') }, ['location']),
  o({
    latitude: { type: 'number', minimum: -90, maximum: 90 },
    longitude: { type: 'number', minimum: -180, maximum: 180 },
  }),
  o({ origin: s, destination: s, mode: one('driving', 'walking', 'bicycling', 'transit') }, ['origin', 'destination']),
  o({
    timezone: { type: 'string', pattern: '^[A-Za-z_]+/[A-Za-z_]+$' },
    time: { type: 'string', pattern: '^\\d{2}:\\d{2}$' },
  }),
  o({ owner: s, repo: s, title: s, body: s, labels: list(s), milestone: i, assignees: list(s) }, [
    'owner',
    'repo',
    'title',
  ]),
  o({ owner: s, repo: s, issue_number: i, state: one('open', 'closed') }, ['owner', 'repo', 'issue_number']),
  o(
    {
      q: s,
      sort: one('comments', 'created', 'updated'),
      order: one('asc', 'desc'),
      page: { type: 'integer', minimum: 1 },
      per_page: { type: 'integer', minimum: 1, maximum: 100 },
    },
    ['q'],
  ),
  o({ owner: s, repo: s, branch: s, files: list(o({ path: s, content: s })), message: s }),
  o({ repo_path: s, message: s, files: list(s) }, ['repo_path', 'message']),
  o({ repo_path: s, max_count: { type: 'integer', default: 10 }, start: opt(s) }, ['repo_path']),
  o({ sql: s, params: list({ type: ['string', 'number', 'boolean', 'null'] }) }, ['sql']),
  o({
    table: { type: 'string', pattern: '^[a-z_][a-z0-9_]*$' },
    columns: list(o({ name: s, type: one('TEXT', 'INTEGER', 'REAL', 'BLOB'), nullable: b }, ['name', 'type']), {
      minItems: 1,
      maxItems: 3,
    }),
  }),
  o({ entities: list(o({ name: s, entityType: s, observations: list(s) })) }),
  o({ relations: list(o({ from: s, to: s, relationType: s })) }),
  o(
    {
      thought: s,
      nextThoughtNeeded: b,
      thoughtNumber: { type: 'integer', minimum: 1 },
      totalThoughts: { type: 'integer', minimum: 1 },
      isRevision: b,
    },
    ['thought', 'nextThoughtNeeded', 'thoughtNumber', 'totalThoughts'],
  ),
  o({ selector: s, button: one('left', 'right', 'middle'), x: i, y: i }, ['selector']),
  o({ fields: list(o({ ref: s, type: one('textbox', 'checkbox', 'radio'), value: s })) }),
  o(
    {
      filename: s,
      fullPage: b,
      type: one('png', 'jpeg'),
      clip: o({
        x: n,
        y: n,
        width: { type: 'number', exclusiveMinimum: 0 },
        height: { type: 'number', exclusiveMinimum: 0 },
      }),
    },
    [],
  ),
  o(
    {
      channel: { type: 'string', pattern: '^[CG][A-Z0-9]{8,10}$' },
      text: { type: 'string', maxLength: 60 },
      thread_ts: { type: 'string', pattern: '^\\d{10}\\.\\d{6}$' },
    },
    ['channel', 'text'],
  ),
  o(
    {
      to: list({ type: 'string', format: 'email' }, { minItems: 1, maxItems: 2 }),
      subject: s,
      body: s,
      cc: list({ type: 'string', format: 'email' }, { maxItems: 1 }),
    },
    ['to', 'subject', 'body'],
  ),
  o(
    {
      summary: s,
      start: o({ dateTime: { type: 'string', format: 'date-time' }, timeZone: s }, ['dateTime']),
      end: o({ dateTime: { type: 'string', format: 'date-time' } }),
      reminders: o({ useDefault: b }),
    },
    ['summary', 'start', 'end'],
  ),
  o({
    date: { type: 'string', format: 'date' },
    guests: { type: 'integer', minimum: 1, maximum: 12 },
    currency: { type: 'string', pattern: '^[A-Z]{3}$' },
  }),
  o(
    {
      amount: { type: 'integer', minimum: 50 },
      currency: one('usd', 'eur', 'jpy'),
      customer: { type: 'string', pattern: '^cus_[A-Za-z0-9]{6}$' },
      metadata: { type: 'object', additionalProperties: s },
    },
    ['amount', 'currency'],
  ),
  o({ id: { type: 'string', format: 'uuid' }, archived: b }),
  o({
    page_id: s,
    properties: {
      type: 'object',
      propertyNames: { type: 'string', maxLength: 8 },
      additionalProperties: { anyOf: [s, n, b] },
    },
  }),
  {
    type: 'object',
    properties: { filter: { $ref: '#/$defs/filter' } },
    required: ['filter'],
    $defs: {
      filter: {
        anyOf: [
          o({ and: list({ $ref: '#/$defs/filter' }, { maxItems: 2 }) }, ['and'], closed),
          o({ property: s, equals: s }, ['property', 'equals'], closed),
        ],
      },
    },
  },
  {
    type: 'object',
    properties: {
      blocks: list(
        {
          oneOf: [
            o({ type: { const: 'paragraph' }, text: s }),
            o({ type: { const: 'heading' }, level: { type: 'integer', minimum: 1, maximum: 6 }, text: s }),
            o({ type: { const: 'divider' } }),
          ],
        },
        { minItems: 1, maxItems: 2 },
      ),
    },
    required: ['blocks'],
  },
  {
    type: 'object',
    properties: { node: { $ref: '#/definitions/node' } },
    required: ['node'],
    definitions: { node: o({ name: s, children: list({ $ref: '#/definitions/node' }) }, ['name']) },
  },
  o(
    {
      namespace: { type: 'string', pattern: '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$', maxLength: 20 },
      replicas: { type: 'integer', minimum: 0 },
      labels: { type: 'object', additionalProperties: s, maxProperties: 2 },
    },
    ['namespace'],
  ),
  o(
    {
      image: s,
      ports: list(
        o({ containerPort: { type: 'integer', minimum: 1, maximum: 65535 }, protocol: one('TCP', 'UDP') }, [
          'containerPort',
        ]),
      ),
      env: { type: 'object', additionalProperties: s },
    },
    ['image'],
  ),
  o(
    {
      prompt: s,
      size: one('1024x1024', '1792x1024'),
      n: { type: 'integer', minimum: 1, maximum: 4 },
      quality: one('standard', 'hd'),
    },
    ['prompt'],
  ),
  o({ operation: one('add', 'subtract', 'multiply', 'divide'), a: n, b: n }),
  o({ ticker: { type: 'string', pattern: '^[A-Z]{1,5}$' }, range: one('1d', '5d', '1mo', '1y') }, ['ticker']),
  o({
    sentiment: one('positive', 'negative', 'neutral'),
    confidence: { type: 'number', minimum: 0, maximum: 1 },
    topics: list(one('price', 'quality', 'service'), { uniqueItems: true }),
  }),
  o(
    {
      index: { type: 'integer', minimum: 0 },
      seed: {
        anyOf: [
          { type: 'integer', minimum: 0 },
          { type: 'string', pattern: '^(0x[0-9a-f]{1,16}|\\d{1,20})$' },
        ],
      },
      scheme: one('trace', 'gay-mcp', 'gay-jl'),
    },
    ['index'],
  ),
  o({ skills: list(s), trits: list({ type: 'integer', enum: [-1, 0, 1] }, { maxItems: 5 }) }, []),
];
