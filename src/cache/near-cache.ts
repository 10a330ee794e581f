import { LRUCache } from 'lru-cache'
import type { Found } from './entry.ts'
import type { Freshness } from './freshness.ts'
import type { ResolvedCacheOptions } from './options.ts'

/** A copy in this process. */
export interface NearEntry {
  readonly value: unknown
  /** On the scale of `performance.now()`. */
  readonly expiresAt: number
  /** False for what was loaded while Redis was away: it has its own, short time instead. */
  readonly needsProof: boolean
}

/** A read under way. What it brings may be kept only if nothing was heard meanwhile that could make it old. */
export interface Mark {
  readonly key: string
  readonly startedAt: number
  /** The hub listened for us when the read was sent. */
  readonly mayFill: boolean
  soiled: boolean
  onSoiled: (() => void) | undefined
}

/** What an entry costs beside its characters: the objects around it. */
const ENTRY_OVERHEAD = 200

/** L1: copies of entries, and the marks of reads under way. */
export class NearCache {
  readonly #fresh: Freshness
  readonly #copies: LRUCache<string, NearEntry> | undefined
  readonly #marks = new Map<string, Set<Mark>>()
  readonly #writing = new Map<string, number>()

  constructor(fresh: Freshness, limits: ResolvedCacheOptions['l1']) {
    this.#fresh = fresh
    if (limits) this.#copies = new LRUCache({ max: limits.maxEntries, maxSize: limits.maxBytes })
  }

  get size(): number {
    return this.#copies?.size ?? 0
  }

  get bytes(): number {
    return this.#copies?.calculatedSize ?? 0
  }

  get(key: string): NearEntry | undefined {
    const copy = this.#copies?.get(key)
    if (copy === undefined) return undefined
    const now = performance.now()
    return now < copy.expiresAt && (!copy.needsProof || this.#fresh.isProven(now)) ? copy : undefined
  }

  /** Before a read is sent. */
  begin(key: string): Mark {
    const mark: Mark = {
      key,
      startedAt: performance.now(),
      mayFill: this.#fresh.synced,
      soiled: this.#writing.has(key),
      onSoiled: undefined,
    }
    if (mark.soiled) return mark
    const marks = this.#marks.get(key)
    if (marks) marks.add(mark)
    else this.#marks.set(key, new Set([mark]))
    return mark
  }

  end(mark: Mark): void {
    const marks = this.#marks.get(mark.key)
    if (marks?.delete(mark) && marks.size === 0) this.#marks.delete(mark.key)
  }

  /** Keeps what a read of L2 has brought, with the TTL it was read with. */
  fill(mark: Mark, { value, size }: Found, ttlMs: number): void {
    if (!mark.mayFill) return
    const expiresAt = ttlMs < 0 ? Number.POSITIVE_INFINITY : mark.startedAt + ttlMs
    this.#keep(mark, { value, expiresAt, needsProof: true }, size)
  }

  /** Keeps what a loader has brought while Redis was away. */
  fillWithoutProof(mark: Mark, { value, size }: Found, forMs: number): void {
    this.#keep(mark, { value, expiresAt: mark.startedAt + forMs, needsProof: false }, size)
  }

  #keep(mark: Mark, copy: NearEntry, size: number): void {
    if (mark.soiled) return
    this.#copies?.set(mark.key, copy, { size: size + mark.key.length + ENTRY_OVERHEAD })
  }

  /** From here to `endWrite` no read of the key is kept: Redis may answer it before or after the write. */
  beginWrite(key: string): void {
    this.#writing.set(key, (this.#writing.get(key) ?? 0) + 1)
    this.drop(key)
  }

  endWrite(key: string): void {
    const left = (this.#writing.get(key) ?? 0) - 1
    if (left > 0) this.#writing.set(key, left)
    else this.#writing.delete(key)
  }

  /** The key has changed. */
  drop(key: string): void {
    this.#copies?.delete(key)
    const marks = this.#marks.get(key)
    if (!marks) return
    this.#marks.delete(key)
    for (const mark of marks) soil(mark)
  }

  /** Anything may have changed. */
  clear(): void {
    this.#copies?.clear()
    const all = [...this.#marks.values()]
    this.#marks.clear()
    for (const marks of all) for (const mark of marks) soil(mark)
  }
}

function soil(mark: Mark): void {
  mark.soiled = true
  mark.onSoiled?.()
}
