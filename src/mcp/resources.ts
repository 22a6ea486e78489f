// What a client can read without calling a tool: models, triads, the tools' schemas, the colors of a trace as a picture,
// and single weights. All of it is a function of its URI and of the model files, so any server behind a load balancer
// gives the same. (Skills have a protocol extension of their own: skills.ts.)

import {
  type McpServer,
  ProtocolError,
  ProtocolErrorCode,
  type ReadResourceResult,
  ResourceTemplate,
} from '@modelcontextprotocol/server';
import { ArgumentError, BitnetError } from '../errors.ts';
import { type KnownModel, listModels, resolveModel } from '../hub/resolve-model.ts';
import { ALL_TOOLS } from '../tools/all-tools.ts';
import { modelTexts } from '../tools/model-texts.ts';
import { schemaFiles } from '../tools/schema-files.ts';
import { skillRegistry } from '../tools/skill-registry.ts';
import { TRACE_SCHEMES, traceColors } from '../tools/trace-colors.ts';
import { TRIT_WINDOW_SIDE, tritWindowText } from '../tools/trit-window.ts';
import { balancedSets } from '../triads/registry.ts';
import { requestHooks, type ToolEnvironment, tell } from './tool-registration.ts';

export const SCHEME = 'bitnet-gf3:';

/** Files of the package change only with the program; what the hub cache holds may change any time. */
const FIXED = { ttlMs: 3_600_000, cacheScope: 'public' } as const;

// Templates are parsed once: a stateless server is created for every request.

const MODEL = new ResourceTemplate(`${SCHEME}//models/{model}`, {
  list: async () => ({
    resources: (await listModels()).map((model) => ({
      uri: `${SCHEME}//models/${encodeURIComponent(model.name)}`,
      name: model.name,
      title: `Model ${model.name}`,
      mimeType: JSON_TYPE,
    })),
  }),
  complete: { model: completeModel },
});

const TRITS = new ResourceTemplate(`${SCHEME}//models/{model}/trits/{layer}/{row}/{column}`, {
  list: undefined,
  complete: { model: completeModel },
});

const SCHEMA = new ResourceTemplate(`${SCHEME}//schemas/{file}`, {
  list: () => ({
    resources: [...schemas().keys()].map((file) => ({
      uri: `${SCHEME}//schemas/${file}`,
      name: file,
      mimeType: SCHEMA_TYPE,
    })),
  }),
  complete: { file: (start) => startingWith(schemas().keys(), start) },
});

const TRACE_PICTURE = new ResourceTemplate(`${SCHEME}//traces/{scheme}/{seed}/{tokens}.png`, {
  list: undefined,
  complete: {
    scheme: (start) => startingWith(TRACE_SCHEMES, start),
    seed: (start) => startingWith(['1069'], start),
    tokens: (start) => startingWith(['12', '48', '100'], start),
  },
});

export function registerResources(server: McpServer, environment: ToolEnvironment): void {
  const { services } = environment;
  const { allowedRoots } = services;

  server.registerResource(
    'models',
    `${SCHEME}//models`,
    {
      title: 'Models',
      description: 'The models that can be used by name: the embedded one and those of the hub cache',
      mimeType: JSON_TYPE,
    },
    (uri) => answering(uri, environment, async () => json(uri, (await listModels()).map(modelSummary))),
  );

  server.registerResource(
    'model',
    MODEL,
    { title: 'A model', description: "A model's config.json and its card", mimeType: JSON_TYPE },
    (uri, { model }) => answering(uri, environment, () => readModel(uri, decoded(model, 'model'), allowedRoots)),
  );

  server.registerResource(
    'trits',
    TRITS,
    {
      title: 'Weights of a layer',
      description: `A square of up to ${TRIT_WINDOW_SIDE} x ${TRIT_WINDOW_SIDE} trits of a layer from a row and column on, one line a row: - is -1, o is 0, + is +1`,
      mimeType: 'text/plain',
    },
    (uri, variables, context) =>
      answering(uri, environment, async () => {
        const place = {
          model: decoded(variables.model, 'model'),
          layer: decoded(variables.layer, 'layer'),
          row: integer(variables.row, 'row'),
          column: integer(variables.column, 'column'),
        };
        const text = await tritWindowText(place, { services, ...requestHooks(context) });
        return { contents: [{ uri: uri.href, mimeType: 'text/plain', text }] };
      }),
  );

  server.registerResource(
    'triads',
    `${SCHEME}//triads`,
    {
      title: 'Skills and their triads',
      description: 'The skills with their trits, and every triad and list with its GF(3) balance',
      mimeType: JSON_TYPE,
      cacheHint: FIXED,
    },
    (uri) =>
      answering(uri, environment, async () => {
        const registry = skillRegistry();
        return json(uri, { skills: registry.skills, sets: balancedSets(registry).map(setToJson) });
      }),
  );

  server.registerResource(
    'schema',
    SCHEMA,
    {
      title: 'A JSON Schema',
      description: "A tool's input and output, or a file of skills/",
      mimeType: SCHEMA_TYPE,
      cacheHint: FIXED,
    },
    (uri, { file }) =>
      answering(uri, environment, async () => {
        const text = schemas().get(decoded(file, 'file'));
        if (text === undefined) {
          const fix = `schemas: ${[...schemas().keys()].join(', ')}`;
          throw new ArgumentError({ what: `there is no schema ${JSON.stringify(file)}`, fix });
        }
        return { contents: [{ uri: uri.href, mimeType: SCHEMA_TYPE, text }] };
      }),
  );

  server.registerResource(
    'trace-picture',
    TRACE_PICTURE,
    {
      title: 'The colors of a trace',
      description: 'A PNG of the colors that the first tokens of any trace of this seed have, with their GF(3) sum',
      mimeType: 'image/png',
      cacheHint: FIXED,
    },
    (uri, variables, context) =>
      answering(uri, environment, async () => {
        const colors = {
          scheme: decoded(variables.scheme, 'scheme'),
          seed: decoded(variables.seed, 'seed'),
          tokens: integer(variables.tokens, 'tokens'),
        };
        const png = await traceColors(colors, { services, ...requestHooks(context) });
        const blob = Buffer.from(png.buffer, png.byteOffset, png.byteLength).toString('base64');
        return { contents: [{ uri: uri.href, mimeType: 'image/png', blob }] };
      }),
  );
}

let schemaTexts: Map<string, string> | undefined;

/** Made when first asked for, once a process. */
function schemas(): Map<string, string> {
  schemaTexts ??= schemaFiles(ALL_TOOLS);
  return schemaTexts;
}

const JSON_TYPE = 'application/json';
const SCHEMA_TYPE = 'application/schema+json';

export function json(uri: URL, value: unknown): ReadResourceResult {
  return { contents: [{ uri: uri.href, mimeType: JSON_TYPE, text: JSON.stringify(value, null, 2) }] };
}

/** Errors become the protocol's; a reader's mistake is not the server's failure. */
export async function answering(
  uri: URL,
  environment: ToolEnvironment,
  read: () => Promise<ReadResourceResult>,
): Promise<ReadResourceResult> {
  try {
    return await read();
  } catch (error) {
    const isCallers = error instanceof BitnetError && error.fault === 'call';
    const code = isCallers ? ProtocolErrorCode.InvalidParams : ProtocolErrorCode.InternalError;
    throw new ProtocolError(code, tell(error, environment, { method: 'resources/read', sent: partsOf(uri) }));
  }
}

/** What the client wrote between the slashes. */
function partsOf({ pathname }: URL): ReadonlySet<string> {
  try {
    return new Set(pathname.split('/').map(decodeURIComponent));
  } catch {
    return new Set();
  }
}

/** For lists and completions, which do not know their client: what went wrong without where. */
export async function listing<T>(list: () => Promise<T>): Promise<T> {
  try {
    return await list();
  } catch (error) {
    const what = error instanceof BitnetError ? error.text.what : 'an internal error';
    throw new ProtocolError(ProtocolErrorCode.InternalError, `the list cannot be made: ${what}`);
  }
}

export function decoded(value: string | string[] | undefined, name: string): string {
  try {
    return decodeURIComponent(String(value));
  } catch (cause) {
    const fix = 'encode it as a URI component';
    throw new ArgumentError({ what: `${name} in the URI is not encoded right`, where: String(value), fix }, { cause });
  }
}

function integer(value: string | string[] | undefined, name: string): number {
  if (/^\d{1,15}$/.test(String(value))) return Number(value);
  throw new ArgumentError({ what: `${name} must be an integer, got ${JSON.stringify(value)}`, fix: 'write digits' });
}

function startingWith(values: Iterable<string>, start: string): string[] {
  return [...values].filter((value) => value.startsWith(start));
}

/** As it stands in the URI. */
async function completeModel(start: string): Promise<string[]> {
  return startingWith(
    (await listModels()).map(({ name }) => encodeURIComponent(name)),
    start,
  );
}

/** Where a model lies is the server's business. */
function modelSummary({ name, kind, source, commit }: KnownModel) {
  return { name, kind, source, ...(commit !== undefined && { commit }) };
}

async function readModel(
  uri: URL,
  name: string,
  allowedRoots: readonly string[] | undefined,
): Promise<ReadResourceResult> {
  const location = await resolveModel(name, allowedRoots === undefined ? {} : { allowedRoots });
  if (location.kind !== 'folder') {
    return json(uri, { name, kind: location.kind, see: 'analyze_layer tells what is inside' });
  }
  const texts = await modelTexts(location.path);
  return { contents: texts.map(({ file, mimeType, text }) => ({ uri: `${uri.href}#${file}`, mimeType, text })) };
}

/** In the contract's spelling. */
function setToJson({
  name,
  kind,
  members,
  sum,
  residue,
  conserved,
  completingTrit,
}: ReturnType<typeof balancedSets>[0]) {
  return { name, kind, members, sum, residue, conserved, completing_trit: completingTrit };
}
