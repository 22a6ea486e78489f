// Clients hand over a variable whose value was left out as it is written: BITNET_BACKEND='${user_config.backend}'. Such a
// value is no value.

/** Of the variables that we, or what we load, read. */
const OURS = /^(BITNET_|HF_|HUGGING_?FACE_|XDG_)|^(HTTPS?|NO|ALL)_PROXY$|^LOCALAPPDATA$/i;
const PLACEHOLDER = /^\s*\$\{[^{}]*\}\s*$/;

/** Takes such variables out of the environment; returns their names, sorted. */
export function unsetPlaceholders(env: Record<string, string | undefined>): string[] {
  const names = Object.keys(env).filter((name) => OURS.test(name) && PLACEHOLDER.test(env[name] ?? ''));
  for (const name of names) delete env[name];
  return names.sort();
}
