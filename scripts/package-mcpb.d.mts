export function mcpbManifest(): Promise<Record<string, unknown>>;
export function stageMcpb(folder?: string): Promise<string>;
export function packMcpb(folder: string, output: string): string;
