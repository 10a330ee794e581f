import { performance } from 'node:perf_hooks' // the global one is found by a getter at every use
import { LRUCache } from 'lru-cache'
import { PassingMap } from '../core/passing-map.ts'
import type { Freshness } from './freshness.ts'
import type { ResolvedCacheOptions } from './options.ts'
import { hasChanged, type TagState, TagStates } from './tag-states.ts'
import type { Found } from './values.ts'

/** A copy in this process. Times are on the scale of `performance.now()`. */
export interface NearEntry {
  readonly value: unknown
  /** Fresh until then. */
  readonly expiresAt: number
  /** After that for the last step only, when neither Redis nor the loader can be had. */
  readonly graceUntil: number
  /** When somebody may begin to replace it. */
  refreshAt: number
  /** Of the write that made it; empty when it is not to be replaced early. */
  readonly token: string
  readonly tags: readonly TagState[]
  /** How often any tag had changed when its own were looked at last: most hits need not look. */
  tagsLookedAt: number
  /** Of the news that it has been kept up to date by; of the outage it was made in. */
  readonly era: number
  /** False for what was loaded while Redis was away: it has its own, short time instead. */
  readonly needsProof: boolean
  /** Somebody has changed it since. */
  outdated: boolean
}

/** What a read of L2 has found for L1. */
export interface Filling {
  readonly found: Found
  readonly freshMs: number
  readonly graceMs: number
  readonly refreshMs: number
  readonly token: string
  readonly tags: readonly string[]
}

/** A read under way. What it brings may be kept only if nothing was heard meanwhile that could make it old. */
export interface Mark {
  readonly key: string
  readonly startedAt: number
  /** The hub listened for us when the read was sent. */
  readonly mayFill: boolean
  soiled: boolean
  onSoiled: (() => void) | undefined
  /** The next one under way for the same key. */
  next: Mark | undefined
}

/** What an entry costs beside key and value: the copy itself, its places in the LRU. Measured with four shapes of values. */
const ENTRY_OVERHEAD = 200

/** L1: copies of entries, and the marks of reads under way. */
export class NearCache {
  readonly #fresh: Freshness
  readonly #copies: LRUCache<string, NearEntry> | undefined
  readonly #marks = new PassingMap<string, Mark>()
  readonly #writing = new PassingMap<string, number>()
  readonly #tags = new TagStates(() => this.#copies?.values() ?? [])
  #era = 0
  /** How often news have come back. */
  #outages = 0
  /** Copies are of use even when news were missed. */
  #keepsOld: boolean

  constructor(fresh: Freshness, limits: ResolvedCacheOptions['l1'], keepsOld: boolean) {
    this.#fresh = fresh
    this.#keepsOld = keepsOld
    if (!limits) return
    const { maxEntries, maxBytes } = limits
    this.#copies = new LRUCache({ max: maxEntries, maxSize: maxBytes })
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
    if (this.#isOutdated(copy)) {
      if (copy.graceUntil === 0) this.#copies?.delete(key)
      return undefined
    }
    const now = performance.now()
    if (now >= copy.expiresAt) return undefined
    if (!copy.needsProof) return copy.era === this.#outages ? copy : undefined
    return copy.era === this.#era && this.#fresh.isProven(now) ? copy : undefined
  }

  #isOutdated(copy: NearEntry): boolean {
    if (copy.outdated) return true
    const { changes } = this.#tags
    if (copy.tagsLookedAt === changes) return false
    copy.outdated = hasChanged(copy.tags)
    copy.tagsLookedAt = changes
    return copy.outdated
  }

  /** For as long as Redis cannot be asked: fresh as far as was heard, whether or not it is proven. */
  unproven(key: string): NearEntry | undefined {
    const copy = this.#copies?.get(key)
    return copy && !this.#isOutdated(copy) && performance.now() < copy.expiresAt ? copy : undefined
  }

  /** When there is nothing else: within its grace, and outdated only if those count too. */
  last(key: string, { outdated }: { outdated: boolean }): NearEntry | undefined {
    const copy = this.#copies?.get(key)
    if (copy === undefined || performance.now() >= copy.graceUntil) return undefined
    return outdated || !this.#isOutdated(copy) ? copy : undefined
  }

  /** Before a read is sent. */
  begin(key: string): Mark {
    const soiled = this.#writing.get(key) !== undefined
    const next = soiled ? undefined : this.#marks.get(key)
    const startedAt = performance.now()
    const mark: Mark = { key, startedAt, mayFill: this.#fresh.synced, soiled, onSoiled: undefined, next }
    if (!soiled) this.#marks.set(key, mark)
    return mark
  }

  end(mark: Mark): void {
    let other = this.#marks.get(mark.key)
    if (other === mark) {
      if (mark.next) this.#marks.set(mark.key, mark.next)
      else this.#marks.delete(mark.key)
      return
    }
    for (; other; other = other.next) if (other.next === mark) other.next = mark.next
  }

  /** Keeps what a read of L2 has brought, no longer than the TTL it was read with. */
  fill(mark: Mark, { found, freshMs, graceMs, refreshMs, token, tags }: Filling): void {
    if (!mark.mayFill) return
    const expiresAt = mark.startedAt + freshMs
    this.#keep(mark, found.size, {
      value: found.value,
      expiresAt,
      graceUntil: graceMs > 0 ? expiresAt + graceMs : 0,
      refreshAt: mark.startedAt + refreshMs,
      token,
      tags: this.#tags.of(tags),
      tagsLookedAt: this.#tags.changes,
      era: this.#era,
      needsProof: true,
      outdated: false,
    })
  }

  /** Keeps what a loader has brought while Redis was away. */
  fillWithoutProof(
    mark: Mark,
    { value, size }: Found,
    forMs: number,
    graceMs: number,
    tags: readonly string[] = [],
  ): void {
    const expiresAt = mark.startedAt + forMs
    this.#keep(mark, size, {
      value,
      expiresAt,
      graceUntil: graceMs > 0 ? expiresAt + graceMs : 0,
      refreshAt: Number.POSITIVE_INFINITY,
      token: '',
      tags: this.#tags.of(tags),
      tagsLookedAt: this.#tags.changes,
      era: this.#outages,
      needsProof: false,
      outdated: false,
    })
  }

  #keep(mark: Mark, size: number, copy: NearEntry): void {
    const copies = this.#copies
    if (mark.soiled || !copies) return
    if (copy.graceUntil > 0) this.#keepsOld = true
    copies.set(mark.key, copy, { size: size + mark.key.length + ENTRY_OVERHEAD })
  }

  /** From here to `endWrite` no read of the key is kept: Redis may answer it before or after the write. */
  beginWrite(key: string): void {
    this.#writing.set(key, (this.#writing.get(key) ?? 0) + 1)
    this.#copies?.delete(key)
    this.#soil(key)
  }

  endWrite(key: string): void {
    const left = (this.#writing.get(key) ?? 0) - 1
    if (left > 0) this.#writing.set(key, left)
    else this.#writing.delete(key)
  }

  /** Somebody has changed the key. */
  drop(key: string): void {
    const copy = this.#copies?.peek(key)
    if (copy) {
      if (copy.graceUntil > 0) copy.outdated = true
      else this.#copies?.delete(key)
    }
    this.#soil(key)
  }

  /**
   * Everything with this tag has changed; its copies go when they are asked for, or pushed out. What is being read may
   * have the tag too.
   */
  dropTag(tag: string): void {
    this.#tags.change(tag)
    this.#soilAll()
  }

  /** Everything has changed. */
  clear(): void {
    this.#copies?.clear()
    this.#soilAll()
  }

  /** News are heard again: what was loaded in between has missed some. */
  endOutage(): void {
    this.#outages += 1
  }

  /** Anything may have changed. */
  doubt(): void {
    this.#era += 1
    if (!this.#keepsOld) this.#copies?.clear()
    this.#soilAll()
  }

  #soil(key: string): void {
    const first = this.#marks.get(key)
    if (!first) return
    this.#marks.delete(key)
    for (let mark: Mark | undefined = first; mark; mark = mark.next) soil(mark)
  }

  #soilAll(): void {
    for (const [key] of this.#marks.entries()) this.#soil(key)
  }
}

function soil(mark: Mark): void {
  mark.soiled = true
  mark.onSoiled?.()
}
