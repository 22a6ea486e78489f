/** Runs `work` with settings of a fake device or driver, and puts them back. */
export async function withSettings<T>(settings: Record<string, string>, work: () => Promise<T> | T): Promise<T> {
  const before = Object.keys(settings).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, settings);
  try {
    return await work();
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}
