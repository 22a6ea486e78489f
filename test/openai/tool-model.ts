// The embedded model with a chat template that knows tools, in a folder of its own.

import { copyFileSync, mkdtempSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const MODEL = new URL('../../models/default/', import.meta.url).pathname;

const CALLS = {
  json: `<tool_call>\n{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}\n</tool_call>`,
  xml:
    `<tool_call>\n<function={{ call.function.name }}>` +
    `{% for key, value in call.function.arguments | items %}{{ '\\n' }}<parameter={{ key }}>\n` +
    `{{ value if value is string else value | tojson }}\n</parameter>{% endfor %}{{ '\\n' }}</function>\n</tool_call>`,
};

/** The caller removes the folder. */
export function toolModel(style: keyof typeof CALLS): string {
  const folder = mkdtempSync(join(tmpdir(), `bitnet-tools-${style}-`));
  for (const file of readdirSync(MODEL)) {
    if (statSync(join(MODEL, file)).isFile()) copyFileSync(join(MODEL, file), join(folder, file));
  }
  const config = JSON.parse(readFileSync(join(MODEL, 'tokenizer_config.json'), 'utf8')) as { chat_template: string };
  config.chat_template =
    `{{ bos_token }}{% if tools %}Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}{{ '<|eot_id|>' }}{% endif %}` +
    `{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}` +
    `{% for call in message.tool_calls or [] %}${CALLS[style]}{% endfor %}{{ '<|eot_id|>' }}{% endfor %}` +
    `{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}`;
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config));
  return folder;
}
