/** Places that do not say what package.json says about version and owner. `from`: a folder with the package's files. */
export function disagreements(from?: string): string[];
export function sectionOf(changelog: string, version: string): string | undefined;
export function ownerOf(manifest: { readonly repository: { readonly url: string } }): string | undefined;
