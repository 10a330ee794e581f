import type { AnswerHandler, Gathered, GatherOptions } from './gather.ts'
import type { Receipt } from './hub.ts'
import type { Member } from './members.ts'
import type { BusOptions } from './options.ts'
import type { Gap } from './positions.ts'
import type { MessageHandler, MessageMeta } from './receiver.ts'
import type { Invalidations } from './watchers.ts'

export interface Subscription {
  /** Resolves once messages from every machine arrive here; rejects after 10 s without Redis, or when `signal` aborts. */
  readonly ready: Promise<void>
  /** Idempotent. */
  unsubscribe(): void
}

export interface BusEvents {
  join: [member: Member]
  leave: [member: Member]
  /** Messages that were accepted will not arrive here: whoever keeps copies of what they told has to read it again. */
  gap: [gap: Gap]
  /** Other machines cannot be heard or reached; this one still is. */
  degraded: []
  restored: []
  /** A receiver threw or rejected; the others are not affected. Without a listener it becomes a process warning. */
  'handler-error': [error: unknown, meta: MessageMeta]
}

export interface PublishOptions {
  /**
   * `'everyone'`: every worker of every machine. `'machine'`: those of this one, without Redis. `'primary'`: this machine's
   * primary (`handle.subscribe`). `'any'`: one worker, chosen at random. Else a member id. Default `'everyone'`.
   */
  readonly to?: 'everyone' | 'machine' | 'primary' | 'any' | (string & {})
  /** Whether this process receives it too, if it is meant. Default true. */
  readonly self?: boolean
  readonly signal?: AbortSignal
}

/** Messages to every worker of every machine, in order per publisher, each handled once per subscriber. */
export interface Bus {
  /** This process's member id. */
  readonly id: string
  /**
   * Sends to every worker, this one included and asynchronously. Never waits, never rejects; a payload that cannot be
   * sent throws at once.
   *
   * @throws SharedStateError `ERR_AS_ONE_PAYLOAD`, `ERR_AS_ONE_OPTIONS` for a malformed topic, `ERR_AS_ONE_CLOSED`
   * @example bus.broadcast('invalidate', 'product:7')
   */
  broadcast(topic: string, payload?: unknown): void
  /**
   * Sends like `broadcast` and tells what became of it.
   *
   * @throws SharedStateError as `broadcast`, and `ERR_AS_ONE_ABORTED` when `signal` aborts the wait
   * @example const { local, remote } = await bus.publish('invalidate', 'product:7', { self: false })
   */
  publish(topic: string, payload?: unknown, options?: PublishOptions): Promise<Receipt>
  /**
   * Calls `handler` for every message on a topic (`'user.7'`) or pattern (`'user.*'` one more segment, `'user.**'` one or more).
   *
   * @throws SharedStateError `ERR_AS_ONE_OPTIONS` for a malformed topic
   * @example const { ready } = bus.subscribe('invalidate', (id) => recommendations.forget(id)); await ready
   */
  subscribe<Payload = unknown>(
    topicOrPattern: string,
    handler: MessageHandler<Payload>,
    options?: { signal?: AbortSignal },
  ): Subscription
  /**
   * Answers `gather` on a topic; one handler per topic and process. Returns the function that ends it.
   *
   * @throws SharedStateError `ERR_AS_ONE_OPTIONS` for a malformed topic or a second handler
   * @example bus.handle('stats', () => process.memoryUsage())
   */
  handle<Question = unknown, Answer = unknown>(
    topic: string,
    handler: AnswerHandler<Question, Answer>,
  ): () => void
  /**
   * Asks every member, this process included, and tells who has answered what and who has not, and why.
   *
   * @throws SharedStateError as `broadcast`, and `ERR_AS_ONE_ABORTED` when `signal` aborts the wait
   * @example const { results, missing } = await bus.gather('stats', undefined, { timeout: 500 })
   */
  gather<Answer = unknown>(
    topic: string,
    payload?: unknown,
    options?: GatherOptions,
  ): Promise<Gathered<Answer>>
  /** Who receives broadcasts at the moment, as far as this process knows. The first call joins the bus. */
  members(): readonly Member[]
  /** Returns the function that ends it. */
  on<Event extends keyof BusEvents>(event: Event, listener: (...args: BusEvents[Event]) => void): () => void
  /** Joins now instead of at the first use. Idempotent. */
  start(): void
  /** Sends what is queued and leaves. Idempotent. */
  close(): Promise<void>
}

/** What rooms get: the bus, and word of what is written to the cache's keys, over one seat at the hub. */
export interface MachineBus extends Bus {
  readonly invalidations: Invalidations
  /** Receives what is sent `to: 'primary'`; for the primary's own handle. */
  onPrimary(topicOrPattern: string, handler: MessageHandler): () => void
  /**
   * Sets limits and log topics before the first use.
   *
   * @throws SharedStateError `ERR_AS_ONE_OPTIONS` for a mistake, or when the bus is in use with other settings
   */
  configure(options: BusOptions): void
}
