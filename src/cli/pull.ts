import { ArgumentError, CancelledError } from '../errors.ts';
import { defineCommand } from './command.ts';
import { EXIT } from './exit-status.ts';
import { openProgressBar } from './progress-bar.ts';

const MAIN = 'main';

export const command = defineCommand({
  name: 'pull',
  summary: 'Download a model from the Hugging Face Hub into the standard hub cache',
  positionals: [
    {
      name: 'REPO',
      description: 'ORG/NAME, with @REVISION for a branch, tag or commit, with /FILE for one .gguf or .onnx of several',
    },
  ],
  flags: {
    revision: { type: 'string', placeholder: 'R', description: 'Branch, tag or commit (default main)' },
    file: {
      type: 'strings',
      placeholder: 'NAME',
      description: 'Only this file (may be repeated); default: weights, configs, tokenizer, licence',
    },
  },
  examples: ['pull microsoft/bitnet-b1.58-2B-4T', 'pull microsoft/bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf'],
  notes:
    'What is there already is not downloaded again, also when another tool fetched it; a download that was stopped goes ' +
    'on where it stopped. Each file is checked against its hash before it becomes visible. HF_HOME or HF_HUB_CACHE say ' +
    'where the cache is, HF_ENDPOINT names a mirror, HF_TOKEN opens private and gated models, HTTPS_PROXY and NO_PROXY ' +
    'name the way out. Of several GGUF models the smallest that holds the trits exactly is taken, and said.',
  run: async ({ positionals, flags, json, output, signal }) => {
    const { repo, file, revision: inName } = partsOf(positionals[0]!);
    if (inName !== undefined && flags.revision !== undefined && inName !== flags.revision) {
      throw new ArgumentError({
        what: `two revisions: "${inName}" in REPO and --revision ${flags.revision}`,
        fix: 'give one of them',
      });
    }
    const revision = flags.revision ?? inName ?? MAIN;
    const files = [...(file === undefined ? [] : [file]), ...(flags.file ?? [])];
    const { pull } = await import('../hub/pull.ts');
    using bar = openProgressBar({ output, json }, 'pull');
    // Without a network it tries several times before it gives up.
    bar.wait(`waiting for an answer from ${hostOf(process.env.HF_ENDPOINT)}`);
    try {
      const result = await pull(repo, {
        revision,
        signal,
        ...(files.length > 0 && { files }),
        onNotice: (line) => {
          bar[Symbol.dispose]();
          output.note(line);
        },
        onProgress: ({ file: name, doneBytes, totalBytes, filesDone, files: count }) =>
          bar.update(
            doneBytes,
            totalBytes,
            `${sizeText(doneBytes)} of ${sizeText(totalBytes)}, ${name} (${filesDone + 1} of ${count})`,
          ),
      });
      bar[Symbol.dispose]();
      const named = flags.file === undefined ? file : (file ?? onlyModel(result.files));
      const model = `${repo}${named === undefined ? '' : `/${named}`}${revision === MAIN ? '' : `@${revision}`}`;
      if (json) {
        const { commit, path, downloadedBytes } = result;
        const chosen = result.choice !== undefined && { choice: result.choice };
        output.json({
          repo,
          revision,
          commit,
          path,
          files: result.files,
          downloaded_bytes: downloadedBytes,
          model,
          ...chosen,
        });
        return 0;
      }
      output.line(result.path);
      const count = `${result.files.length} ${result.files.length === 1 ? 'file' : 'files'}`;
      output.note(
        result.downloadedBytes === 0
          ? `${count}, all there already; use them as --model ${model}`
          : `${count}, ${sizeText(result.downloadedBytes)} downloaded; use them as --model ${model}`,
      );
      return 0;
    } catch (error) {
      if (!(error instanceof CancelledError)) throw error;
      bar[Symbol.dispose]();
      output.note('stopped; the same command goes on from here');
      return EXIT.stopped;
    }
  },
});

/** The spellings of a hub model that `--model` takes. */
function partsOf(name: string): { repo: string; file: string | undefined; revision: string | undefined } {
  const at = name.indexOf('@');
  const [org, base, ...path] = (at < 0 ? name : name.slice(0, at)).split('/');
  return {
    repo: base === undefined ? org! : `${org}/${base}`,
    file: path.length === 0 ? undefined : path.join('/'),
    revision: at < 0 ? undefined : name.slice(at + 1),
  };
}

/** The model file among those that were named, by which --model finds it beside others of the repository. */
function onlyModel(files: readonly string[]): string | undefined {
  const models = files.filter((name) => /\.(gguf|onnx)$/.test(name) && !/-(?!0*1-)\d+-of-\d+\.gguf$/.test(name));
  return models.length === 1 ? models[0] : undefined;
}

/** In the decimal units that the Hub shows. */
function sizeText(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e3).toFixed(bytes >= 1e4 ? 0 : 1)} kB`;
}

/** Where the list of files comes from, as people know it. */
function hostOf(endpoint: string | undefined): string {
  const url = endpoint || 'https://huggingface.co';
  return URL.canParse(url) ? new URL(url).host : 'the hub';
}
