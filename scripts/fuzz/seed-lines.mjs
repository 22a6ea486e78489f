// Inputs as lines of text, so that a folder of thousands is one file that shows what changed: JSON's strings where an input
// is plain text, else base64 after a colon.

export function toLine(bytes) {
  const text = Buffer.from(bytes).toString('utf8');
  return Buffer.from(text).equals(Buffer.from(bytes)) && !text.includes('\0')
    ? JSON.stringify(text)
    : `:${Buffer.from(bytes).toString('base64')}`;
}

export function fromLine(line) {
  return Buffer.from(line.startsWith(':') ? line.slice(1) : JSON.parse(line), line.startsWith(':') ? 'base64' : 'utf8');
}
