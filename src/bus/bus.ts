import { randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { hostname } from 'node:os'
import { withDeadline } from '../core/abort.ts'
import { channels } from '../core/channels.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import type { Keys } from '../core/keys.ts'
import { onRoleChange, processRole } from '../core/role.ts'
import type { RedisSource } from '../redis/source.ts'
import { createBatcher } from './batcher.ts'
import { announcedChannel, joinOverChannel, takeChannel } from './channel.ts'
import { ID_BYTES, messagesBody, readMessagesHeader } from './frame.ts'
import type { HubPort, HubSeat, Receipt } from './hub.ts'
import { type HubHold, holdHub } from './hubs.ts'
import type { Member, MemberRecord } from './members.ts'
import { decodePayload, parseSafely } from './payload.ts'
import { createTopicTable } from './topics.ts'

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

/** A message larger than this is refused at `broadcast` and `publish`. */
const MAX_MESSAGE_BYTES = 1 << 20

export function createBus({ keys, source }: { keys: Keys; source: RedisSource }): Bus {
  const idBytes = randomBytes(ID_BYTES)
  const id = idBytes.toString('hex')
  const events = new EventEmitter<BusEvents>()
  const receivers = createTopicTable<MessageHandler>()
  const seen = new Map<string, number>()
  const receipts = new Map<number, (receipt: Receipt) => void>()
  const whenReachable = new Set<() => void>()
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

  const port: HubPort = {
    deliver(frame) {
      receive(frame)
      return true
    },
    members: setRoster,
    remote: setReachable,
    receipt(receiptId, receipt) {
      receipts.get(receiptId)?.(receipt)
      receipts.delete(receiptId)
    },
  }

  function start(): void {
    if (closing) return
    joining ??= join()
  }

  async function join(): Promise<void> {
    const member: MemberRecord = {
      id,
      machine: hostname(),
      pid: process.pid,
      index: announcedChannel()?.announcement.index,
    }
    const channel = processRole() === 'primary' ? undefined : takeChannel(keys.namespace, source.id)
    if (channel) {
      try {
        seat = await joinOverChannel(channel, member, port, onChannelLost)
      } catch (error) {
        if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'own-hub', reason: messageOf(error) })
      }
    }
    if (!seat) joinOwnHub(member)
    batcher.flush()
  }

  function joinOwnHub(member: MemberRecord): void {
    if (closing) return
    hold ??= holdHub(keys, source)
    seat = hold.hub.join(processRole() === 'primary' ? undefined : member, port)
  }

  /** Joined before `runCluster` was reached: a primary sends but is no receiver. */
  const stopRoleChange = onRoleChange(() => {
    if (processRole() !== 'primary') return
    for (const resolve of whenReachable) resolve()
    if (!hold) return
    seat?.leave()
    seat = hold.hub.join(undefined, port)
  })

  /** The primary died, or what came over the channel made no sense: from now on this process is its own hub. */
  function onChannelLost(reason: string): void {
    if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'own-hub', reason })
    seat = undefined
    setReachable(false)
    for (const [receiptId, done] of receipts) {
      receipts.delete(receiptId)
      done({ local: 0, remote: 'dropped' })
    }
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

  function receive(frame: Buffer): void {
    const { publisher, firstSequence, count, sentAt } = readMessagesHeader(frame)
    const last = seen.get(publisher) ?? 0
    const end = firstSequence + count - 1
    if (!(end > last)) return // it came by two paths
    if (!seen.has(publisher) && seen.size >= MAX_PUBLISHERS) seen.delete(seen.keys().next().value as string)
    seen.set(publisher, end)
    if (receivers.size === 0 || processRole() === 'primary') return
    let body: unknown
    try {
      body = parseSafely(messagesBody(frame))
    } catch (error) {
      if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'bad-frame', reason: messageOf(error) })
      return
    }
    dispatchAll(body, { from: publisher, at: sentAt, self: false }, firstSequence, last)
  }

  function receiveOwn(body: string, firstSequence: number, at: number): void {
    if (receivers.size === 0 || processRole() === 'primary') return
    dispatchAll(JSON.parse(body), { from: id, at, self: true }, firstSequence, 0)
  }

  function dispatchAll(
    body: unknown,
    common: Omit<MessageMeta, 'topic' | 'sequence'>,
    firstSequence: number,
    after: number,
  ): void {
    if (!Array.isArray(body)) return
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
      payload = decodePayload(Number(encoding), parsed)
    } catch (error) {
      handlerFailed(error, meta)
      return
    }
    for (const handler of handlers) {
      try {
        const result = handler(payload, meta)
        if (result instanceof Promise) result.catch((error: unknown) => handlerFailed(error, meta))
      } catch (error) {
        handlerFailed(error, meta)
      }
    }
  }

  function handlerFailed(error: unknown, meta: MessageMeta): void {
    if (events.listenerCount('handler-error') > 0) events.emit('handler-error', error, meta)
    else
      process.emitWarning(`a receiver of '${meta.topic}' failed: ${messageOf(error)}`, {
        code: 'AS_ONE_HANDLER_ERROR',
      })
  }

  function setRoster(list: readonly MemberRecord[]): void {
    const before = new Map(roster.map((member) => [member.id, member]))
    roster = list.map((record) => before.get(record.id) ?? { ...record, self: record.id === id })
    const now = new Set(roster.map((member) => member.id))
    for (const member of roster) if (!before.has(member.id)) events.emit('join', member)
    for (const member of before.values()) if (!now.has(member.id)) events.emit('leave', member)
  }

  function setReachable(next: boolean): void {
    if (reachable === next) return
    reachable = next
    events.emit(next ? 'restored' : 'degraded')
    if (!next) return
    for (const resolve of whenReachable) resolve()
    whenReachable.clear()
  }

  function ready(signal: AbortSignal | undefined): Promise<void> {
    if (reachable || processRole() === 'primary') return Promise.resolve()
    let resolve = (): void => {}
    const heard = new Promise<void>((done) => {
      resolve = done
      whenReachable.add(done)
    })
    const waiting = withDeadline(heard, READY_DEADLINE_MS, notReady, signal).finally(() =>
      whenReachable.delete(resolve),
    )
    waiting.catch(() => {}) // whoever does not await `ready` has the events
    return waiting
  }

  const notReady = (): Error =>
    new SharedStateError(
      'ERR_AS_ONE_REDIS_UNAVAILABLE',
      `Redis at ${source.label} has not answered for ${READY_DEADLINE_MS} ms; other machines cannot be heard until it does`,
    )

  function checkOpen(): void {
    if (closing) throw new SharedStateError('ERR_AS_ONE_CLOSED', 'the bus has been closed')
  }

  return {
    id,
    broadcast(topic, payload) {
      checkOpen()
      batcher.add(topic, payload, true, 0)
      start()
    },
    async publish(topic, payload, { self = true, signal } = {}) {
      checkOpen()
      nextReceipt = nextReceipt === 0xffff_ffff ? 1 : nextReceipt + 1
      const receiptId = nextReceipt
      const answered = new Promise<Receipt>((resolve) => receipts.set(receiptId, resolve))
      try {
        batcher.add(topic, payload, self, receiptId)
        start()
        return await withDeadline(answered, undefined, notReady, signal)
      } finally {
        receipts.delete(receiptId)
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
      closing ??= (async () => {
        stopRoleChange()
        await joining
        batcher.flush()
        receivers.clear()
        seat?.leave()
        await hold?.release()
        for (const done of receipts.values()) done({ local: 0, remote: 'dropped' })
      })()
      return closing
    },
  }
}
