export const PLUGIN: string;
export const UP: string;
export function stagePlugin(folder?: string): Promise<string>;
export function whyStale(folder?: string): Promise<string | undefined>;
