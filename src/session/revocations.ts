import type { Bus } from '../bus/index.ts'
import { channels } from '../core/channels.ts'

/** A session that has ended, or has been given another id by a login. */
export interface Revoked {
  /** Hashed id, as `forUser().list()` and `fromRequest()` give it. */
  readonly id: string
  /** Who had logged in. */
  readonly userId: string | undefined
  readonly reason: 'destroyed' | 'rotated' | 'expired'
}

/** Where a session is: there, nowhere, or under another id. */
export type Whereabouts = 'here' | 'gone' | { readonly movedTo: string }

export interface RevocationsOptions {
  readonly bus: Bus
  /** Asks Redis, for each of the hashed ids. */
  readonly where: (ids: readonly string[]) => Promise<Whereabouts[]>
  /** How often the sessions that are held open are looked at: for those that expire, and for words that got lost. */
  readonly everyMs: number
}

interface Message {
  readonly ended?: readonly Revoked[]
  readonly moved?: readonly (readonly [from: string, to: string])[]
}

const TOPIC = 'as-one.sessions'
const MAX_IN_MESSAGE = 500
/** What a rotation without grace left behind is gone before its word has come round. */
const WORD_TAKES_MS = 1_000

/** Tells every worker which sessions have ended, so that each can close what it holds open for them. */
export class Revocations {
  readonly #options: RevocationsOptions
  readonly #listeners = new Set<(revoked: Revoked) => void>()
  /** By hashed id. */
  readonly #held = new Map<string, Set<Held>>()
  #unsent: { ended: Revoked[]; moved: [string, string][] } | undefined
  #timer: NodeJS.Timeout | undefined
  #stop: (() => void) | undefined
  #looking = false

  constructor(options: RevocationsOptions) {
    this.#options = options
  }

  ended(revoked: Revoked): void {
    this.#outbox().ended.push(revoked)
  }

  moved(from: string, to: string): void {
    this.#outbox().moved.push([from, to])
  }

  /** Returns the function that ends it. */
  on(listener: (revoked: Revoked) => void): () => void {
    const own = (revoked: Revoked): void => listener(revoked)
    this.#listeners.add(own)
    this.#listen()
    return () => this.#listeners.delete(own)
  }

  /** Calls `end` once when the session ends; returns the function that takes it back. */
  hold(id: string, end: (revoked: Revoked) => void): () => void {
    const held: Held = { id, end }
    this.#put(held)
    this.#listen()
    this.#timer ??= setInterval(() => void this.#look(), this.#options.everyMs).unref()
    return () => this.#release(held)
  }

  close(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
    this.#stop?.()
    this.#stop = undefined
    this.#listeners.clear()
    this.#held.clear()
  }

  #outbox(): { ended: Revoked[]; moved: [string, string][] } {
    if (!this.#unsent) {
      this.#unsent = { ended: [], moved: [] }
      setImmediate(() => this.#send())
    }
    return this.#unsent
  }

  #send(): void {
    const { ended = [], moved = [] } = this.#unsent ?? {}
    this.#unsent = undefined
    try {
      if (moved.length > 0) this.#options.bus.broadcast(TOPIC, { moved } satisfies Message)
      for (let i = 0; i < ended.length; i += MAX_IN_MESSAGE) {
        this.#options.bus.broadcast(TOPIC, { ended: ended.slice(i, i + MAX_IN_MESSAGE) } satisfies Message)
      }
    } catch (error) {
      // Closing down: nobody is left to be told here, and the others look for themselves.
      if (channels.session.hasSubscribers) channels.session.publish({ event: 'revocation-not-sent', error })
    }
  }

  #listen(): void {
    if (this.#stop) return
    const { bus } = this.#options
    const subscription = bus.subscribe<Message>(TOPIC, (message) => this.#heard(message))
    const stopRestored = bus.on('restored', () => void this.#look())
    this.#stop = () => {
      subscription.unsubscribe()
      stopRestored()
    }
    // What ended before the subscription stood is found by looking; without Redis the timer looks later.
    subscription.ready.then(
      () => this.#look(),
      () => {},
    )
  }

  #heard({ ended = [], moved = [] }: Message): void {
    for (const [from, to] of moved) this.#follow(from, to)
    for (const revoked of ended) {
      this.#end(revoked)
      for (const listener of this.#listeners) listener(revoked)
    }
  }

  async #look(): Promise<void> {
    if (this.#looking || this.#held.size === 0) return
    this.#looking = true
    try {
      const ids = [...this.#held.keys()]
      const places = await this.#options.where(ids)
      const gone = ids.filter((_, index) => places[index] === 'gone')
      if (gone.length > 0) setTimeout(() => this.#expired(gone), WORD_TAKES_MS).unref()
      ids.forEach((id, index) => {
        const place = places[index]
        if (typeof place === 'object') this.#follow(id, place.movedTo)
      })
    } catch (error) {
      if (channels.session.hasSubscribers) channels.session.publish({ event: 'touch-failed', error })
    } finally {
      this.#looking = false
    }
  }

  /** Those that have not been heard to be elsewhere: an id that is gone never comes back. */
  #expired(gone: readonly string[]): void {
    for (const id of gone) this.#end({ id, userId: undefined, reason: 'expired' })
  }

  #end(revoked: Revoked): void {
    const all = this.#held.get(revoked.id)
    this.#held.delete(revoked.id)
    for (const { end } of all ?? []) end(revoked)
    this.#rest()
  }

  #follow(from: string, to: string): void {
    const all = this.#held.get(from)
    this.#held.delete(from)
    for (const held of all ?? []) {
      held.id = to
      this.#put(held)
    }
  }

  #put(held: Held): void {
    const others = this.#held.get(held.id)
    if (others) others.add(held)
    else this.#held.set(held.id, new Set([held]))
  }

  #release(held: Held): void {
    const others = this.#held.get(held.id)
    if (!others?.delete(held)) return
    if (others.size === 0) this.#held.delete(held.id)
    this.#rest()
  }

  #rest(): void {
    if (this.#held.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

interface Held {
  id: string
  readonly end: (revoked: Revoked) => void
}
