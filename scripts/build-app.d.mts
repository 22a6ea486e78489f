export function buildViewHtml(): Promise<string>;
export function moduleOf(html: string): string;
