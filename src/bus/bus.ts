import { randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { hostname } from 'node:os'
import { aborted, withDeadline } from '../core/abort.ts'
import { channels } from '../core/channels.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { parseSafely } from '../core/json.ts'
import type { Keys } from '../core/keys.ts'
import { onRoleChange, processRole } from '../core/role.ts'
import type { RedisSource } from '../redis/source.ts'
import { createBatcher } from './batcher.ts'
import { announcedChannel, joinOverChannel, takeChannel } from './channel.ts'
import { BadFrame, ID_BYTES, messagesBody, readMessagesHeader } from './frame.ts'
import type { HubPort, HubSeat, Receipt } from './hub.ts'
import { type HubHold, holdHub } from './hubs.ts'
import type { Member, MemberRecord } from './members.ts'
import { decodePayload } from './payload.ts'
import { createTopicTable } from './topics.ts'
import { createWatchers, type Invalidations } from './watchers.ts'

/** What a receiver learns beside the payload. */
export interface MessageMeta {
  readonly topic: string
  /** Member id of the publisher. */
  readonly from: string
  /** Counts the publisher's messages from 1 on. */
  readonly sequence: number
  /** When it was sent, ms since the epoch by the publisher's clock. */
  readonly at: number
  /** True when this process sent it. */
  readonly self: boolean
}

export type MessageHandler<Payload = unknown> = (payload: Payload, meta: MessageMeta) => unknown

export interface Subscription {
  /** Resolves once messages from every machine arrive here; rejects after 10 s without Redis, or when `signal` aborts. */
  readonly ready: Promise<void>
  /** Idempotent. */
  unsubscribe(): void
}

export interface BusEvents {
  join: [member: Member]
  leave: [member: Member]
  /** Other machines cannot be heard or reached; this one still is. */
  degraded: []
  restored: []
  /** A receiver threw or rejected; the others are not affected. Without a listener it becomes a process warning. */
  'handler-error': [error: unknown, meta: MessageMeta]
}

export interface PublishOptions {
  /** Whether this process receives it too. Default true. */
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
  /** Who receives broadcasts at the moment, as far as this process knows. */
  members(): readonly Member[]
  /** Returns the function that ends it. */
  on<Event extends keyof BusEvents>(event: Event, listener: (...args: BusEvents[Event]) => void): () => void
  /** Joins now instead of at the first use. Idempotent. */
  start(): void
  /** Sends what is queued and leaves. Idempotent. */
  close(): Promise<void>
}

const READY_DEADLINE_MS = 10_000
const MAX_PUBLISHERS = 10_000
/** How long `close()` waits to learn what became of the last messages. */
const RECEIPTS_DEADLINE_MS = 1_000

/** A message larger than this is refused at `broadcast` and `publish`. */
const MAX_MESSAGE_BYTES = 1 << 20

/** What rooms get: the bus, and word of what is written to the cache's keys, over one seat at the hub. */
export interface MachineBus extends Bus {
  readonly invalidations: Invalidations
}

export function createBus({ keys, source }: { keys: Keys; source: RedisSource }): MachineBus {
  const idBytes = randomBytes(ID_BYTES)
  const id = idBytes.toString('hex')
  const events = new EventEmitter<BusEvents>()
  const receivers = createTopicTable<MessageHandler>()
  const seen = new Map<string, number>()
  const receipts = new Map<number, (receipt: Receipt) => void>()
  const whenReachable = new Set<{ resolve(): void; reject(error: Error): void }>()
  const watchers = createWatchers(() => {
    start()
    seat?.track(watchers.everyMs())
  })
  const batcher = createBatcher({
    publisher: idBytes,
    maxMessageBytes: MAX_MESSAGE_BYTES,
    send,
    drop,
    receiveOwn,
  })
  let nextReceipt = 0
  let roster: readonly Member[] = []
  let reachable = false
  let joining: Promise<void> | undefined
  let seat: HubSeat | undefined
  let hold: HubHold | undefined
  let closing: Promise<void> | undefined
  let onAllAnswered: (() => void) | undefined

  const port: HubPort = {
    deliver(frame) {
      receive(frame)
      return true
    },
    members: setRoster,
    remote: setReachable,
    receipt(receiptId, receipt) {
      receipts.get(receiptId)?.(receipt)
      forgetReceipt(receiptId)
    },
    cacheNews(news) {
      watchers.hear(news)
      return true
    },
  }

  function start(): void {
    if (closing) return
    joining ??= join(keys.namespace, source.id) // read here: a mistake in the settings is the caller's to hear
  }

  async function join(namespace: string, redisId: string): Promise<void> {
    const member: MemberRecord = {
      id,
      machine: hostname(),
      pid: process.pid,
      index: announcedChannel()?.announcement.index,
    }
    const channel = processRole() === 'primary' ? undefined : takeChannel(namespace, redisId)
    if (channel) {
      try {
        sitDown(await joinOverChannel(channel, member, port, onChannelLost))
      } catch (error) {
        if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'own-hub', reason: messageOf(error) })
      }
    }
    if (!seat) joinOwnHub(member)
    batcher.flush()
  }

  function joinOwnHub(member: MemberRecord): void {
    hold ??= holdHub(keys, source)
    sitDown(hold.hub.join(processRole() === 'primary' ? undefined : member, port))
  }

  function sitDown(next: HubSeat): void {
    if (seat) watchers.hear({ lost: 'this process has joined another hub', refused: false })
    seat = next
    if (watchers.everyMs() > 0) seat.track(watchers.everyMs())
  }

  /** Joined before `runCluster` was reached: a primary sends but is no receiver. */
  const stopRoleChange = onRoleChange(() => {
    if (processRole() !== 'primary') return
    for (const waiter of whenReachable) waiter.resolve()
    if (!hold) return
    void seat?.leave()
    sitDown(hold.hub.join(undefined, port))
  })

  /** The primary died, or what came over the channel made no sense: from now on this process is its own hub. */
  function onChannelLost(reason: string): void {
    if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'own-hub', reason })
    seat = undefined
    watchers.hear({ lost: reason, refused: false })
    dropReceipts()
    if (closing) return
    setReachable(false)
    joinOwnHub({ id, machine: hostname(), pid: process.pid, index: announcedChannel()?.announcement.index })
    batcher.flush()
  }

  function send(frame: Buffer, receipt: number): boolean {
    if (!seat) return false
    if (!seat.send(frame)) drop(receipt)
    return true
  }

  function drop(receipt: number): void {
    if (receipt !== 0) port.receipt(receipt, { local: 0, remote: 'dropped' })
  }

  function dropReceipts(): void {
    for (const [receiptId, done] of receipts) {
      done({ local: 0, remote: 'dropped' })
      forgetReceipt(receiptId)
    }
  }

  function forgetReceipt(receiptId: number): void {
    if (receipts.delete(receiptId) && receipts.size === 0) onAllAnswered?.()
  }

  function receive(frame: Buffer): void {
    const { publisher, firstSequence, count, sentAt } = readMessagesHeader(frame)
    if (publisher === id) return // own receivers have it; it went out through a primary that has died since
    const last = seen.get(publisher) ?? 0
    const end = firstSequence + count - 1
    if (end <= last) return // it came by two paths
    if (!Number.isSafeInteger(end) || firstSequence < 1 || count < 1) {
      badFrame('impossible numbers')
      return
    }
    let body: readonly unknown[] = []
    if (receivers.size > 0 && processRole() !== 'primary') {
      try {
        body = messagesOf(parseSafely(messagesBody(frame)), count)
      } catch (error) {
        badFrame(messageOf(error))
        return
      }
    }
    if (!seen.has(publisher) && seen.size >= MAX_PUBLISHERS) seen.delete(seen.keys().next().value as string)
    seen.set(publisher, end)
    dispatchAll(body, { from: publisher, at: sentAt, self: false }, firstSequence, last)
  }

  function badFrame(reason: string): void {
    if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'bad-frame', reason })
  }

  function receiveOwn(body: string, firstSequence: number, at: number): void {
    if (receivers.size === 0 || processRole() === 'primary') return
    dispatchAll(parseSafely(body) as unknown[], { from: id, at, self: true }, firstSequence, 0)
  }

  function dispatchAll(
    body: readonly unknown[],
    common: Omit<MessageMeta, 'topic' | 'sequence'>,
    firstSequence: number,
    after: number,
  ): void {
    for (let i = 0, sequence = firstSequence; i + 2 < body.length; i += 3, sequence++) {
      const topic: unknown = body[i]
      if (sequence <= after || typeof topic !== 'string') continue
      const handlers = receivers.matching(topic)
      if (handlers.length > 0) dispatch(handlers, body[i + 1], body[i + 2], { ...common, topic, sequence })
    }
  }

  function dispatch(
    handlers: readonly MessageHandler[],
    encoding: unknown,
    parsed: unknown,
    meta: MessageMeta,
  ): void {
    let payload: unknown
    try {
      payload = decodePayload(encoding, parsed)
    } catch (error) {
      handlerFailed(error, meta)
      return
    }
    for (const handler of handlers) {
      try {
        const result = handler(payload, meta)
        if (isThenable(result)) result.then(undefined, (error: unknown) => handlerFailed(error, meta))
      } catch (error) {
        handlerFailed(error, meta)
      }
    }
  }

  function handlerFailed(error: unknown, meta: MessageMeta): void {
    if (events.listenerCount('handler-error') > 0) emit('handler-error', error, meta)
    else
      process.emitWarning(`a receiver of '${meta.topic}' failed: ${messageOf(error)}`, {
        code: 'AS_ONE_HANDLER_ERROR',
      })
  }

  /** A listener that throws ends the process like any uncaught error, but not in the middle of our work. */
  function emit<Event extends keyof BusEvents>(event: Event, ...args: BusEvents[Event]): void {
    try {
      events.emit(event as never, ...(args as never))
    } catch (error) {
      process.nextTick(() => {
        throw error
      })
    }
  }

  function setRoster(list: readonly MemberRecord[]): void {
    const before = new Map(roster.map((member) => [member.id, member]))
    roster = list.map((record) => before.get(record.id) ?? { ...record, self: record.id === id })
    const now = new Set(roster.map((member) => member.id))
    for (const member of roster) if (!before.has(member.id)) emit('join', member)
    for (const member of before.values()) if (!now.has(member.id)) emit('leave', member)
  }

  function setReachable(next: boolean): void {
    if (reachable === next) return
    reachable = next
    emit(next ? 'restored' : 'degraded')
    if (!next) return
    for (const waiter of whenReachable) waiter.resolve()
    whenReachable.clear()
  }

  function ready(signal: AbortSignal | undefined): Promise<void> {
    if (!signal?.aborted && (reachable || processRole() === 'primary')) return Promise.resolve()
    let waiter: { resolve(): void; reject(error: Error): void } | undefined
    const heard = new Promise<void>((resolve, reject) => {
      waiter = { resolve, reject }
      whenReachable.add(waiter)
    })
    const waiting = withDeadline(heard, READY_DEADLINE_MS, notReady, signal).finally(
      () => waiter && whenReachable.delete(waiter),
    )
    waiting.catch(() => {}) // whoever does not await `ready` has the events
    return waiting
  }

  const notReady = (): Error =>
    new SharedStateError(
      'ERR_AS_ONE_REDIS_UNAVAILABLE',
      `Redis at ${source.label} has not answered for ${READY_DEADLINE_MS} ms; other machines cannot be heard until it does`,
    )

  const closed = (): Error => new SharedStateError('ERR_AS_ONE_CLOSED', 'the bus has been closed')

  function checkOpen(): void {
    if (closing) throw closed()
  }

  async function close(): Promise<void> {
    stopRoleChange()
    for (const waiter of whenReachable) waiter.reject(closed())
    await joining
    batcher.flush()
    receivers.clear()
    if (receipts.size > 0) {
      const answered = new Promise<void>((resolve) => {
        onAllAnswered = resolve
      })
      await withDeadline(answered, RECEIPTS_DEADLINE_MS, closed).catch(() => {})
    }
    await seat?.leave()
    await hold?.release()
    dropReceipts()
  }

  return {
    id,
    invalidations: watchers,
    broadcast(topic, payload) {
      checkOpen()
      start()
      batcher.add(topic, payload, true, 0)
    },
    async publish(topic, payload, { self = true, signal } = {}) {
      checkOpen()
      if (signal?.aborted) throw aborted(signal)
      nextReceipt = nextReceipt === 0xffff_ffff ? 1 : nextReceipt + 1
      const receiptId = nextReceipt
      const answered = new Promise<Receipt>((resolve) => receipts.set(receiptId, resolve))
      try {
        start()
        batcher.add(topic, payload, self, receiptId)
        return await withDeadline(answered, undefined, notReady, signal)
      } finally {
        forgetReceipt(receiptId)
      }
    },
    subscribe(topicOrPattern, handler, { signal } = {}) {
      checkOpen()
      const remove = receivers.add(topicOrPattern, handler as MessageHandler)
      signal?.addEventListener('abort', remove, { once: true })
      if (signal?.aborted) remove()
      // Not at once: the same file may be on its way to making this process a primary, which receives nothing.
      setImmediate(() => processRole() !== 'primary' && start())
      return {
        ready: ready(signal),
        unsubscribe() {
          remove()
          signal?.removeEventListener('abort', remove)
        },
      }
    },
    members: () => roster,
    on(event, listener) {
      events.on(event, listener as never)
      return () => events.off(event, listener as never)
    },
    start,
    close() {
      closing ??= close()
      return closing
    },
  }
}

/** The triples of a frame of messages. */
function messagesOf(body: unknown, count: number): readonly unknown[] {
  if (Array.isArray(body) && body.length === 3 * count) return body
  throw new BadFrame(`its body does not hold ${count} messages`)
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return (
    typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
  )
}
