import { channels } from '../core/channels.ts'
import { messageOf } from '../core/errors.ts'
import { parseSafely } from '../core/json.ts'
import type { OwnMessages } from './batcher.ts'
import {
  BadFrame,
  isInternal,
  messagesBody,
  messagesTopics,
  readMessagesHeader,
  Stream,
  streamKeyOf,
} from './frame.ts'
import { decodePayload } from './payload.ts'
import type { Ears } from './positions.ts'
import type { TopicTable } from './topics.ts'

/** What a receiver learns beside the payload. */
export interface MessageMeta {
  readonly topic: string
  /** Member id of the publisher. */
  readonly from: string
  /** Counts the publisher's messages to the same address (everyone, the machine, this member) from 1 on; on a log topic those on it. */
  readonly sequence: number
  /** When it was sent, ms since the epoch by the publisher's clock. */
  readonly at: number
  /** True when this process sent it. */
  readonly self: boolean
}

export type MessageHandler<Payload = unknown> = (payload: Payload, meta: MessageMeta) => unknown

export interface ReceiverOptions {
  /** This process's member id. */
  readonly id: string
  readonly ears: Ears
  /** Who is subscribed to what a stream brings; undefined for nobody. */
  subscribers(stream: number): TopicTable<MessageHandler> | undefined
  /** Questions and answers of `gather`. */
  onInternal(topic: string, payload: unknown, meta: MessageMeta): void
  onFailure(error: unknown, meta: MessageMeta): void
}

/** Brings frames of messages to this process's handlers: each message once, in order, whatever a handler does. */
export interface Receiver {
  receive(frame: Buffer): void
  /** What this process has sent itself. */
  receiveOwn(messages: OwnMessages): void
  /** One message, to all handlers of its topic. */
  dispatch(table: TopicTable<MessageHandler>, encoding: unknown, parsed: unknown, meta: MessageMeta): void
}

export function createReceiver({ id, ears, subscribers, onInternal, onFailure }: ReceiverOptions): Receiver {
  function receive(frame: Buffer): void {
    const { publisher, firstSequence, count, sentAt, stream } = readMessagesHeader(frame)
    if (publisher === id) return // own receivers have it; it went out through a primary that has died since
    const end = firstSequence + count - 1
    if (!Number.isSafeInteger(end) || firstSequence < 1 || count < 1) {
      badFrame('impossible numbers')
      return
    }
    const internal = isInternal(frame)
    const table = subscribers(stream)
    let topics: readonly string[] = []
    let body: readonly unknown[] = []
    try {
      if (internal || (table && table.size > 0)) topics = topicsOf(parseSafely(messagesTopics(frame)))
      if (internal || (table && hasReceivers(table, topics)))
        body = messagesOf(parseSafely(messagesBody(frame)), count)
    } catch (error) {
      badFrame(messageOf(error))
      return
    }
    const before = ears.accept(streamKeyOf(frame), firstSequence, end)
    if (before === undefined) return
    const common = { topics, from: publisher, at: sentAt, self: false }
    dispatchAll(body, common, firstSequence, before, table, internal)
  }

  function dispatchAll(
    body: readonly unknown[],
    { topics, from, at, self }: Omit<MessageMeta, 'topic' | 'sequence'> & { topics: readonly string[] },
    firstSequence: number,
    after: number,
    table: TopicTable<MessageHandler> | undefined,
    internal: boolean,
  ): void {
    for (let i = 0, sequence = firstSequence; i + 2 < body.length; i += 3, sequence++) {
      const place = body[i]
      const topic = typeof place === 'number' ? topics[place] : undefined
      if (sequence <= after || topic === undefined) continue
      if (internal) ask(topic, body[i + 1], body[i + 2], { topic, from, sequence, at, self })
      else if (table) {
        const handlers = table.matching(topic)
        if (handlers.length > 0) run(handlers, body[i + 1], body[i + 2], { topic, from, sequence, at, self })
      }
    }
  }

  function ask(topic: string, encoding: unknown, parsed: unknown, meta: MessageMeta): void {
    let payload: unknown
    try {
      payload = decodePayload(encoding, parsed)
    } catch (error) {
      badFrame(messageOf(error))
      return
    }
    onInternal(topic, payload, meta)
  }

  function run(
    handlers: readonly MessageHandler[],
    encoding: unknown,
    parsed: unknown,
    meta: MessageMeta,
  ): void {
    let payload: unknown
    try {
      payload = decodePayload(encoding, parsed)
    } catch (error) {
      onFailure(error, meta)
      return
    }
    for (const handler of handlers) {
      try {
        const result = handler(payload, meta)
        if (isThenable(result)) result.then(undefined, (error: unknown) => onFailure(error, meta))
      } catch (error) {
        onFailure(error, meta)
      }
    }
  }

  return {
    receive,
    receiveOwn({ body, topics, firstSequence, sentAt }) {
      const table = subscribers(Stream.everyone)
      if (!table || table.size === 0 || !hasReceivers(table, topics)) return
      const common = { topics, from: id, at: sentAt, self: true }
      dispatchAll(parseSafely(body) as unknown[], common, firstSequence, 0, table, false)
    },
    dispatch(table, encoding, parsed, meta) {
      const handlers = table.matching(meta.topic)
      if (handlers.length > 0) run(handlers, encoding, parsed, meta)
    },
  }
}

function badFrame(reason: string): void {
  if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'bad-frame', reason })
}

function topicsOf(list: unknown): readonly string[] {
  if (Array.isArray(list) && list.every((each) => typeof each === 'string')) return list
  throw new BadFrame('its topics are no list of texts')
}

/** Whether anybody here is to get something of a frame; parsing it is most of what a message costs. */
function hasReceivers(table: TopicTable<MessageHandler>, topics: readonly string[]): boolean {
  return topics.some((each) => table.matching(each).length > 0)
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
