import { SharedStateError } from '../core/errors.ts'
import { encodeMessages, Stream, streamKey } from './frame.ts'
import { type EncodedPayload, encodePayload } from './payload.ts'
import type { Positions } from './positions.ts'

/** A frame is sent at the end of the tick, or as soon as it holds this many characters. */
const FLUSH_CHARACTERS = 32 << 10
/** Frames made before the hub has been joined; past it the oldest go. */
const MAX_EARLY_BYTES = 8 << 20

export interface BatcherOptions {
  readonly publisher: Buffer
  readonly maxMessageBytes: number
  /** False while there is no hub yet; the frame is kept. */
  send(frame: Buffer, receipt: number): boolean
  /** A frame that waited too long for a hub is gone, and with it the message that wanted this receipt, if not 0. */
  drop(receipt: number): void
  /** The same messages for this process's own receivers. */
  receiveOwn(messages: OwnMessages): void
}

/** A frame's messages as they stay in this process. */
export interface OwnMessages {
  readonly body: string
  readonly topics: readonly string[]
  readonly firstSequence: number
  readonly sentAt: number
}

/** Where a message goes, beside the sender itself. */
export interface Address {
  readonly stream: number
  /** Member id, in the stream `direct`. */
  readonly target: string
  /** Questions and answers of `gather`, which every member reads, subscribed to anything or not. */
  readonly internal?: boolean
}

export const EVERYONE: Address = { stream: Stream.everyone, target: '' }

/** Gathers the messages of one tick into one frame: the largest single saving on the way to the hub. */
export interface Batcher {
  /** @throws SharedStateError `ERR_AS_ONE_PAYLOAD` for the payload or its size */
  add(topic: string, payload: unknown, self: boolean, receipt: number, to?: Address): void
  /** Hands messages to this process's own receivers alone, in order with all others. */
  addOwn(topic: string, payload: unknown): void
  flush(): void
  /** Last sequence number by stream key, of all that was ever sent. */
  positions(): Positions['at']
}

export function createBatcher({
  publisher,
  maxMessageBytes,
  send,
  drop,
  receiveOwn,
}: BatcherOptions): Batcher {
  const publisherId = publisher.toString('hex')
  let body = ''
  let count = 0
  let batchSelf = true
  let batchTo: Address | undefined = EVERYONE
  /** Last sequence number by stream and receiver; there are as many as there are members that this one has addressed. */
  const sequences = new Map<string, number>()
  let scheduled = false
  let own: OwnMessages[] = []
  /** Each topic of the frame by its place in the list that the frame begins with. */
  let topics = new Map<string, number>()
  let topicCharacters = 0
  let lastTopic = ''
  let lastPlace = 0
  const early: { frame: Buffer; receipt: number }[] = []
  let earlyBytes = 0

  function flush(): void {
    scheduled = false
    cut(0)
    for (let first = early[0]; first && send(first.frame, first.receipt); first = early[0]) {
      early.shift()
      earlyBytes -= first.frame.length
    }
    const delivered = own
    own = []
    for (const messages of delivered) receiveOwn(messages)
  }

  /** Ends the frame; only its last message may want a receipt. */
  function cut(receipt: number): void {
    if (count === 0) return
    const key = batchTo === undefined ? '' : streamKey(publisherId, batchTo.stream, batchTo.target)
    const firstSequence = (sequences.get(key) ?? 0) + 1
    sequences.set(key, firstSequence + count - 1)
    const sentAt = Date.now()
    const messages = { body: `[${body}]`, topics: [...topics.keys()], firstSequence, sentAt }
    // Own receivers run at the flush, never inside the call that publishes.
    if (batchSelf) own.push(messages)
    if (batchTo) {
      const frame = encodeMessages(messages.body, { receipt, count, publisher, ...messages, ...batchTo })
      if (early.length > 0 || !send(frame, receipt)) keep(frame, receipt)
    }
    body = ''
    count = 0
    topics = new Map()
    topicCharacters = 0
    lastTopic = ''
  }

  function keep(frame: Buffer, receipt: number): void {
    early.push({ frame, receipt })
    earlyBytes += frame.length
    while (earlyBytes > MAX_EARLY_BYTES && early.length > 1) {
      const dropped = early.shift() as { frame: Buffer; receipt: number }
      earlyBytes -= dropped.frame.length
      drop(dropped.receipt)
    }
  }

  function placeOf(topic: string): number {
    const known = topics.get(topic)
    if (known !== undefined) return known
    topics.set(topic, topics.size)
    topicCharacters += topic.length
    return topics.size - 1
  }

  function append(
    topic: string,
    payload: unknown,
    self: boolean,
    receipt: number,
    to: Address | undefined,
  ): void {
    const { encoding, json } = encodeChecked(topic, payload, maxMessageBytes)
    if (
      count > 0 &&
      (self !== batchSelf || body.length + topicCharacters >= FLUSH_CHARACTERS || !isSame(to, batchTo))
    )
      cut(0)
    batchSelf = self
    batchTo = to
    if (topic !== lastTopic) {
      lastPlace = placeOf(topic)
      lastTopic = topic
    }
    body += `${count === 0 ? '' : ','}${lastPlace},${encoding},${json}`
    count += 1
    if (receipt !== 0) cut(receipt)
    if (scheduled) return
    scheduled = true
    setImmediate(flush)
  }

  return {
    add: (topic, payload, self, receipt, to = EVERYONE) => append(topic, payload, self, receipt, to),
    addOwn: (topic, payload) => append(topic, payload, true, 0, undefined),
    flush,
    positions: () => [...sequences].filter(([key]) => key !== ''),
  }
}

function isSame(a: Address | undefined, b: Address | undefined): boolean {
  return a === b || (a?.stream === b?.stream && a?.target === b?.target && a?.internal === b?.internal)
}

/** @throws SharedStateError `ERR_AS_ONE_PAYLOAD` */
export function encodeChecked(topic: string, payload: unknown, maxMessageBytes: number): EncodedPayload {
  const encoded = encodePayload(payload)
  const { json } = encoded
  // A UTF-16 unit is at most three bytes of UTF-8, so most payloads need no exact count.
  if (json.length * 3 > maxMessageBytes && Buffer.byteLength(json) > maxMessageBytes) {
    throw new SharedStateError(
      'ERR_AS_ONE_PAYLOAD',
      `the payload for '${topic}' has ${Buffer.byteLength(json)} bytes, over maxMessageBytes ${maxMessageBytes}; send a key and store the value`,
    )
  }
  return encoded
}
