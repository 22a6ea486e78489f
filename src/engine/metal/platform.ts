/** Why no machine of this kind has Metal; undefined where one may. */
export function whyNoMetal(): string | undefined {
  if (process.platform === 'darwin' && process.arch === 'arm64') return undefined;
  return `Metal needs macOS on Apple silicon, this is ${process.platform} on ${process.arch}`;
}
