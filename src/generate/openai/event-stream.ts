// Server-sent events as bytes come in: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2. What a
// server sends is not trusted: lines, events and the whole stream are bounded.

export type StreamEvent = {
  /** The field `event`; `message` where there is none. */
  readonly type: string;
  /** The fields `data`, joined by line breaks. */
  readonly data: string;
};

export type EventLimits = {
  /** Characters of one event. */
  readonly eventLength: number;
  /** Bytes of the whole stream. */
  readonly totalBytes: number;
};

/** The stream is longer than its limits allow. */
export class StreamLimitError extends RangeError {}

/** Events of a stream. An event whose closing blank line is missing at the end still counts. */
export async function* readEvents(body: AsyncIterable<Uint8Array>, limits: EventLimits): AsyncGenerator<StreamEvent> {
  let type = '';
  let data: string[] = [];
  let dataLength = 0;
  const take = (): StreamEvent | undefined => {
    const event = data.length === 0 ? undefined : { type: type || 'message', data: data.join('\n') };
    [type, data, dataLength] = ['', [], 0];
    return event;
  };
  for await (const line of readLines(body, limits)) {
    if (line === '') {
      const event = take();
      if (event !== undefined) yield event;
      continue;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
    if (field === 'event') type = value;
    // Not in the standard: older llama-servers report failures in a field of this name.
    if (field === 'error') type = 'error';
    if (field !== 'data' && field !== 'error') continue;
    dataLength += value.length;
    if (dataLength > limits.eventLength)
      throw new StreamLimitError(`an event exceeds ${limits.eventLength} characters`);
    data.push(value);
  }
  const last = take();
  if (last !== undefined) yield last;
}

/** Lines of a body, whatever ends them. */
export async function* readLines(body: AsyncIterable<Uint8Array>, limits: EventLimits): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let line = '';
  let afterReturn = false;
  let total = 0;
  const grow = (part: string): void => {
    line += part;
    if (line.length > limits.eventLength) throw new StreamLimitError(`a line exceeds ${limits.eventLength} characters`);
  };
  for await (const bytes of body) {
    total += bytes.byteLength;
    if (total > limits.totalBytes) throw new StreamLimitError(`the stream exceeds ${limits.totalBytes} bytes`);
    const text = decoder.decode(bytes, { stream: true });
    let from = 0;
    if (afterReturn && text !== '') {
      // The second half of a \r\n that was cut in two.
      if (text[0] === '\n') from = 1;
      afterReturn = false;
    }
    const breaks = /\r\n?|\n/g;
    breaks.lastIndex = from;
    for (let found = breaks.exec(text); found !== null; found = breaks.exec(text)) {
      grow(text.slice(from, found.index));
      yield line;
      line = '';
      from = breaks.lastIndex;
      afterReturn = found[0] === '\r' && from === text.length;
    }
    grow(text.slice(from));
  }
  grow(decoder.decode());
  if (line !== '') yield line;
}
