import type { RedisClient } from '../redis/client.ts'
import { type Entry, ownText, parseEntry } from './entry.ts'
import type { FarCache, Reply } from './far-cache.ts'
import type { Filling } from './near-cache.ts'
import type { ResolvedLoad } from './options.ts'
import type { Found, Values } from './values.ts'
import type { Versions } from './versions.ts'

/** What stands under a key in L2, judged. */
export interface Seen {
  readonly entry: Entry
  /** Generation and tags are those of today. */
  readonly current: boolean
  /** The value, if it is current and can be read. */
  readonly found: Found | undefined
  /** Of its TTL, before its grace; 0 or less when it is stale. */
  readonly freshMs: number
}

type Judged = Pick<Reply, 'text' | 'ttlMs'> & Partial<Reply>

/** Reads L2 and says what counts of it. */
export class Reader {
  readonly #far: FarCache
  readonly #versions: Versions
  readonly #values: Values

  constructor(far: FarCache, versions: Versions, values: Values) {
    this.#far = far
    this.#versions = versions
    this.#values = values
  }

  /** Undefined for nothing, and for whatever a foreign client has left there. */
  read(redisKey: string): Promise<Seen | undefined> {
    return new Promise((resolve, reject) => {
      // An answer may come after its deadline: then there is nobody to hear what became of further questions.
      let late = false
      this.#far.entry(
        redisKey,
        (reply) => late || resolve(reply && this.judge(reply)),
        (error) => {
          late = true
          reject(error)
        },
      )
    })
  }

  /** `current`: by Redis' own word; `generation`: as just asked for. */
  judge({ text, ttlMs, current, generation }: Judged): Seen | undefined | Promise<Seen | undefined> {
    const entry = parseEntry(text)
    if (entry === undefined) return undefined
    if (current !== undefined) return this.#seen(entry, current, ttlMs)
    if (this.#versions.knows(entry)) return this.#seen(entry, true, ttlMs)
    const confirm = (client: RedisClient) => this.#versions.confirm(client, entry, generation)
    return this.#far.read(confirm).then((current) => this.#seen(entry, current, ttlMs))
  }

  #seen(entry: Entry, current: boolean, ttlMs: number): Seen {
    const found = current && entry.payload !== undefined ? this.#values.decode(entry.payload) : undefined
    // Without TTL: a foreign client has taken it away.
    return { entry, current, found, freshMs: ttlMs < 0 ? Number.POSITIVE_INFINITY : ttlMs - entry.graceMs }
  }
}

/** What a copy is to be made of. */
export function fillingOf({ entry, freshMs }: Seen, found: Found, load: ResolvedLoad): Filling {
  const { graceMs, token, tagNames: tags } = entry
  const refreshMs = refreshIn(entry, freshMs, load)
  return { found, freshMs, graceMs, refreshMs, token: refreshMs === NEVER ? '' : ownText(token), tags }
}

const NEVER = Number.POSITIVE_INFINITY

/**
 * When to begin to replace it: drawn once for every copy, so that the processes do not all come at once. Not while
 * somebody has the lease: taking it with its own token would be stealing it.
 */
function refreshIn({ leased, loadMs }: Entry, freshMs: number, { early, ttlMs }: ResolvedLoad): number {
  if (early === false || leased) return NEVER
  if (early !== 'random') return freshMs - (1 - early) * ttlMs
  // XFetch with beta 1: -ln of a uniform number is exponentially distributed with mean 1.
  return freshMs + Math.max(1, loadMs) * Math.log(1 - Math.random())
}
