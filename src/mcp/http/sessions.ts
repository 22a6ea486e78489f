// Sessions of the 2025 protocols: who holds them, how long they may sit idle, and how many there may be.

import { Refusal, SESSION_NOT_FOUND } from './answers.ts';

export type SessionLimits = {
  readonly maxSessions: number;
  readonly maxSessionsPerClient: number;
  /** A session that nothing happens in for so long is closed. */
  readonly idleMs: number;
};

/** A session younger than this since its last use is not closed to make room for another. */
const SETTLED_MS = 60_000;

const RETRY = { headers: { 'retry-after': '60' } };

export type SessionOwner = {
  /** Whose token it is; no other may use the session. */
  readonly principal: string;
  /** Whom limits count for: the principal at an address. */
  readonly client: string;
  /** Who takes turns with others; `client` where that tells them apart. */
  readonly seat?: string;
};

export type Session<Transport> = SessionOwner & {
  readonly transport: Transport;
  /** Ends it; the table forgets it. */
  readonly close: () => Promise<void>;
  /** Requests and streams that are open. */
  open: number;
  /** By `performance.now()`: the clock of the wall is set now and then, and idle sessions would live or end by that. */
  lastUsed: number;
};

export class SessionTable<Transport> {
  readonly #limits: SessionLimits;
  /** Least recently used first. */
  readonly #sessions = new Map<string, Session<Transport>>();
  readonly #opening = new Set<SessionOwner>();
  readonly #sweep: NodeJS.Timeout;

  constructor(limits: SessionLimits) {
    this.#limits = limits;
    this.#sweep = setInterval(() => this.#closeIdle(), Math.max(50, Math.min(10_000, limits.idleMs / 4)));
    this.#sweep.unref();
  }

  get size(): number {
    return this.#sessions.size;
  }

  /**
   * A place for a session that is being opened; dispose of it when that is done or failed. Throws Refusal when there is
   * no room and no session that has settled can give way.
   */
  reserve(owner: SessionOwner): Disposable {
    const { maxSessions, maxSessionsPerClient } = this.#limits;
    const isOwn = ({ client }: SessionOwner) => client === owner.client;
    const own = [...this.#sessions].filter(([, session]) => isOwn(session));
    if (own.length + [...this.#opening].filter(isOwn).length >= maxSessionsPerClient && !this.#closeSettled(own)) {
      throw new Refusal(429, `one client may hold ${maxSessionsPerClient} sessions; close one with DELETE`, RETRY);
    }
    if (this.#sessions.size + this.#opening.size >= maxSessions && !this.#closeSettled([...this.#sessions])) {
      throw new Refusal(503, `all ${maxSessions} sessions are in use`, RETRY);
    }
    const place = { ...owner };
    this.#opening.add(place);
    return { [Symbol.dispose]: () => void this.#opening.delete(place) };
  }

  add(id: string, session: Omit<Session<Transport>, 'open' | 'lastUsed'>): void {
    this.#sessions.set(id, { ...session, open: 0, lastUsed: performance.now() });
  }

  delete(id: string): void {
    this.#sessions.delete(id);
  }

  /** The session, marked as used now. Throws Refusal for one that is not there or is somebody else's. */
  get(id: string, { principal }: SessionOwner): Session<Transport> {
    const session = this.#sessions.get(id);
    if (session === undefined || session.principal !== principal) {
      throw new Refusal(404, 'Session not found: it ended or never was; initialize again', { code: SESSION_NOT_FOUND });
    }
    session.lastUsed = performance.now();
    this.#sessions.delete(id);
    this.#sessions.set(id, session);
    return session;
  }

  async closeAll(): Promise<void> {
    clearInterval(this.#sweep);
    await Promise.allSettled([...this.#sessions.values()].map(({ close }) => close()));
  }

  #closeSettled(candidates: readonly (readonly [string, Session<Transport>])[]): boolean {
    const before = performance.now() - SETTLED_MS;
    const found = candidates.find(([, { open, lastUsed }]) => open === 0 && lastUsed < before);
    if (found === undefined) return false;
    this.#close(...found);
    return true;
  }

  #closeIdle(): void {
    const before = performance.now() - this.#limits.idleMs;
    for (const [id, session] of this.#sessions) {
      if (session.open === 0 && session.lastUsed < before) this.#close(id, session);
    }
  }

  #close(id: string, session: Session<Transport>): void {
    this.#sessions.delete(id);
    session.close().catch(() => {});
  }
}
