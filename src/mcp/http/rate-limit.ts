// A token bucket for each client: so many requests a second on average, twice as many at once.

/** Clients remembered; the one seen longest ago is forgotten, which at worst fills its bucket. */
const MAX_CLIENTS = 10_000;

type Bucket = { tokens: number; at: number };

export class RateLimit {
  readonly #perSecond: number;
  readonly #burst: number;
  readonly #buckets = new Map<string, Bucket>();

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
    this.#burst = 2 * perSecond;
  }

  /** Takes one request of the client's. Returns the seconds to wait when there is none left, else 0. */
  take(client: string, now: number = performance.now()): number {
    let bucket = this.#buckets.get(client);
    if (bucket === undefined) {
      bucket = { tokens: this.#burst, at: now };
      if (this.#buckets.size >= MAX_CLIENTS) this.#buckets.delete(this.#buckets.keys().next().value!);
    } else {
      bucket.tokens = Math.min(this.#burst, bucket.tokens + ((now - bucket.at) / 1000) * this.#perSecond);
      bucket.at = now;
      this.#buckets.delete(client);
    }
    this.#buckets.set(client, bucket);
    if (bucket.tokens < 1) return (1 - bucket.tokens) / this.#perSecond;
    bucket.tokens -= 1;
    return 0;
  }
}
