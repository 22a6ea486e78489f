// The host's page, bundled and run in the browser: the official AppBridge around one sandboxed frame.

import { AppBridge, PostMessageTransport } from '@modelcontextprotocol/ext-apps/app-bridge';

type HostOptions = {
  readonly html: string;
  readonly capabilities: Record<string, object>;
  readonly context: Record<string, unknown>;
};

type TestWindow = typeof globalThis & {
  /** Given by the test: the real server. */
  readResource: (uri: string) => Promise<never>;
  startHost: (options: HostOptions) => Promise<void>;
  bridge: AppBridge;
  told: unknown[];
  modes: string[];
  sizes: { width?: number | undefined; height?: number | undefined }[];
};

const test = globalThis as unknown as TestWindow;

test.startHost = async ({ html, capabilities, context }) => {
  const frame = document.createElement('iframe');
  frame.setAttribute('sandbox', 'allow-scripts');
  frame.style.cssText = 'width:100%;height:200px;border:0;display:block';
  document.body.replaceChildren(frame);
  const bridge = new AppBridge(null, { name: 'test host', version: '0' }, capabilities, { hostContext: context });
  test.bridge = bridge;
  test.told = [];
  test.modes = [];
  test.sizes = [];
  bridge.onsizechange = (size) => {
    test.sizes.push(size);
    if (size.height !== undefined) frame.style.height = `${size.height}px`;
  };
  bridge.onreadresource = ({ uri }) => test.readResource(uri);
  bridge.onupdatemodelcontext = async (params) => {
    test.told.push(params);
    return {};
  };
  bridge.onrequestdisplaymode = async ({ mode }) => {
    test.modes.push(mode);
    return { mode };
  };
  const initialized = new Promise<void>((resolve) => {
    bridge.oninitialized = () => resolve();
  });
  await bridge.connect(new PostMessageTransport(frame.contentWindow!, frame.contentWindow!));
  frame.srcdoc = html;
  await initialized;
};
