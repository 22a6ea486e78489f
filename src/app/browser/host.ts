// The view's side of MCP Apps (2026-01-26): JSON-RPC with the window that embeds this one.

const PROTOCOL_VERSION = '2026-01-26';
/** A host that does not answer in this time is not there; reads of a large layer take seconds. */
const REQUEST_TIMEOUT_MS = 60_000;

type Json = Record<string, unknown>;
type Message = Json & { readonly id?: number | string; readonly method?: string; readonly params?: Json };

export type HostContext = {
  readonly theme?: 'light' | 'dark';
  readonly styles?: { readonly variables?: Readonly<Record<string, string | undefined>> };
  readonly displayMode?: string;
  readonly availableDisplayModes?: readonly string[];
  readonly toolInfo?: { readonly tool: { readonly name: string } };
};

export type HostCapabilities = {
  readonly serverResources?: object;
  readonly serverTools?: object;
  readonly updateModelContext?: object;
};

export type ToolResult = {
  readonly content?: readonly { readonly type: string; readonly text?: string; readonly data?: string }[];
  readonly structuredContent?: Json;
  readonly isError?: boolean;
};

export type HostEvents = {
  /** The host's context, whole: what it said last of each field. */
  readonly onContext: (context: HostContext) => void;
  readonly onToolInput: (args: Json) => void;
  readonly onToolResult: (result: ToolResult) => void;
  readonly onToolCancelled: (reason: string | undefined) => void;
};

export class Host {
  context: HostContext = {};
  capabilities: HostCapabilities = {};
  readonly #window: Window;
  readonly #events: HostEvents;
  readonly #waiting = new Map<number, { resolve: (result: Json) => void; reject: (error: Error) => void }>();
  #nextId = 1;

  constructor(host: Window, events: HostEvents) {
    this.#window = host;
    this.#events = events;
    window.addEventListener('message', (event) => {
      // Only the host's words count; its origin is not known beforehand, its window is.
      if (event.source === host && event.data?.jsonrpc === '2.0') this.#receive(event.data as Message);
    });
  }

  async connect(appInfo: { name: string; version: string }): Promise<void> {
    const result = await this.request('ui/initialize', {
      appInfo,
      appCapabilities: { availableDisplayModes: ['inline', 'fullscreen'] },
      protocolVersion: PROTOCOL_VERSION,
    });
    this.capabilities = (result.hostCapabilities ?? {}) as HostCapabilities;
    this.#setContext((result.hostContext ?? {}) as HostContext);
    this.notify('ui/notifications/initialized', {});
  }

  request(method: string, params: Json): Promise<Json> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      setTimeout(() => this.#settle(id)?.reject(new Error(`${method}: the host gave no answer`)), REQUEST_TIMEOUT_MS);
      this.#send({ id, method, params });
    });
  }

  notify(method: string, params: Json): void {
    this.#send({ method, params });
  }

  /** Text of a resource of the server, through the host. */
  async readText(uri: string): Promise<string> {
    const { contents } = (await this.request('resources/read', { uri })) as { contents?: { text?: string }[] };
    const text = contents?.[0]?.text;
    if (text === undefined) throw new Error(`${uri} has no text`);
    return text;
  }

  async callTool(name: string, args: Json): Promise<ToolResult> {
    return (await this.request('tools/call', { name, arguments: args })) as ToolResult;
  }

  /** Tells the model what the user looks at, where the host lets it. */
  tellModel(text: string): void {
    if (this.capabilities.updateModelContext === undefined) return;
    // It is a courtesy: a host that refuses loses nothing that the user asked for.
    this.request('ui/update-model-context', { content: [{ type: 'text', text }] }).catch(() => {});
  }

  #send(message: Json): void {
    this.#window.postMessage({ jsonrpc: '2.0', ...message }, '*');
  }

  #settle(id: number) {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiting;
  }

  #receive(message: Message): void {
    const { id, method, params = {} } = message;
    if (method === undefined) {
      const waiting = this.#settle(Number(id));
      const error = message.error as { message?: string } | undefined;
      if (error === undefined) waiting?.resolve((message.result ?? {}) as Json);
      else waiting?.reject(new Error(error.message ?? 'the host refused'));
      return;
    }
    if (id !== undefined) {
      const known = method === 'ping' || method === 'ui/resource-teardown';
      this.#send(known ? { id, result: {} } : { id, error: { code: -32601, message: `no method ${method}` } });
      return;
    }
    switch (method) {
      case 'ui/notifications/host-context-changed':
        this.#setContext(params as HostContext);
        break;
      case 'ui/notifications/tool-input':
      case 'ui/notifications/tool-input-partial':
        this.#events.onToolInput((params.arguments ?? {}) as Json);
        break;
      case 'ui/notifications/tool-result':
        this.#events.onToolResult(params as ToolResult);
        break;
      case 'ui/notifications/tool-cancelled':
        this.#events.onToolCancelled(params.reason as string | undefined);
    }
  }

  #setContext(change: HostContext): void {
    this.context = { ...this.context, ...change };
    this.#events.onContext(this.context);
  }
}
