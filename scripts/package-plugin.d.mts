export const PLUGIN_SERVER: string;
export const UP: string;
