// A strict, pull-style JSON reader for headers that come from strangers. JSON.parse will not do: it silently keeps the
// last of two equal keys, rounds integers above 2^53, and gives no position. Nothing is built that the caller did not
// ask for, and nesting is bounded.

/** Deepest nesting accepted, as in serde_json, which the reference reader uses; a real header needs 3. */
const MAX_DEPTH = 128;

export class JsonSyntaxError extends Error {
  /** Index of the UTF-16 unit in the text. */
  readonly index: number;

  constructor(message: string, index: number) {
    super(message);
    this.name = 'JsonSyntaxError';
    this.index = index;
  }
}

export class JsonReader {
  readonly #text: string;
  #at = 0;
  #depth = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** Index of the next unread character. */
  get index(): number {
    return this.#at;
  }

  fail(message: string, index = this.#at): never {
    throw new JsonSyntaxError(message, index);
  }

  /** Calls `entry` for each key, which must consume the value. Keys come as often as they occur. */
  object(entry: (key: string, keyIndex: number) => void): void {
    this.#enter('{', 'an object');
    if (this.#next() === '}') this.#at++;
    else {
      for (;;) {
        this.#space();
        const keyIndex = this.#at;
        const key = this.string();
        this.#take(':');
        entry(key, keyIndex);
        if (this.#next() !== ',') break;
        this.#at++;
      }
      this.#take('}');
    }
    this.#depth--;
  }

  /** Calls `element` for each element, which must consume it. */
  array(element: () => void): void {
    this.#enter('[', 'an array');
    if (this.#next() === ']') this.#at++;
    else {
      for (;;) {
        element();
        if (this.#next() !== ',') break;
        this.#at++;
      }
      this.#take(']');
    }
    this.#depth--;
  }

  /** A string value, decoded; unpaired surrogates are refused because UTF-8 has none. */
  string(): string {
    if (this.#next() !== '"') this.fail(`expected a string, found ${this.#found()}`);
    const start = this.#at + 1;
    let escaped = false;
    for (let at = start; ; at++) {
      const unit = this.#text.charCodeAt(at);
      if (unit === 0x22) {
        this.#at = at + 1;
        if (!escaped) return this.#text.slice(start, at);
        return this.#unescape(start - 1, at + 1);
      }
      if (unit === 0x5c) {
        escaped = true;
        at++;
      } else if (Number.isNaN(unit)) this.fail('a string is not closed', start - 1);
      else if (unit < 0x20) this.fail('a control character inside a string', at);
    }
  }

  #unescape(start: number, end: number): string {
    let value: string;
    try {
      value = JSON.parse(this.#text.slice(start, end)) as string;
    } catch {
      this.fail('a bad escape inside a string', start);
    }
    if (/\p{Surrogate}/u.test(value)) this.fail('half a surrogate pair inside a string', start);
    return value;
  }

  /** A non-negative integer up to `max`, written without sign, fraction or exponent. */
  unsigned(max: number, what: string): number {
    this.#space();
    const digits = this.#match(/-?[0-9][0-9.eE+-]*/y);
    if (digits === undefined) this.fail(`expected ${what} as a non-negative integer, found ${this.#found()}`);
    if (!/^(0|[1-9][0-9]*)$/.test(digits)) {
      this.fail(`expected ${what} as a non-negative integer, found ${digits.slice(0, 40)}`, this.#at - digits.length);
    }
    const value = Number(digits);
    if (value > max) this.fail(`${what} ${digits.slice(0, 40)} is above the limit ${max}`, this.#at - digits.length);
    return value;
  }

  /** Consumes `null` when it comes next. */
  null(): boolean {
    this.#space();
    return this.#match(/null/y) !== undefined;
  }

  /** Any value, read and dropped. */
  skip(): void {
    switch (this.#next()) {
      case '{':
        this.object(() => this.skip());
        return;
      case '[':
        this.array(() => this.skip());
        return;
      case '"':
        this.string();
        return;
    }
    if (this.#match(/true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y) === undefined) {
      this.fail(`expected a value, found ${this.#found()}`);
    }
  }

  /** Only white space may follow. */
  end(): void {
    this.#space();
    if (this.#at < this.#text.length) this.fail(`expected the end, found ${this.#found()}`);
  }

  #enter(open: string, what: string): void {
    if (this.#next() !== open) this.fail(`expected ${what}, found ${this.#found()}`);
    if (++this.#depth > MAX_DEPTH) this.fail(`nested deeper than ${MAX_DEPTH}`);
    this.#at++;
  }

  #take(mark: string): void {
    if (this.#next() !== mark) this.fail(`expected "${mark}", found ${this.#found()}`);
    this.#at++;
  }

  #next(): string {
    this.#space();
    return this.#text[this.#at] ?? '';
  }

  #space(): void {
    for (;;) {
      const unit = this.#text.charCodeAt(this.#at);
      if (unit !== 0x20 && unit !== 0x0a && unit !== 0x0d && unit !== 0x09) return;
      this.#at++;
    }
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #found(): string {
    const mark = this.#text[this.#at];
    if (mark === undefined) return 'the end';
    return mark < ' ' ? `the character U+${mark.charCodeAt(0).toString(16).padStart(4, '0')}` : JSON.stringify(mark);
  }
}
