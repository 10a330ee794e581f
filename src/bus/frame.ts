import { parseSafely } from '../core/json.ts'

/**
 * The wire format, the same on the channel between primary and worker and in a Redis message, which holds one or more
 * frames behind each other.
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0  | u32 | bytes that follow this field |
 * | 4  | u8  | version |
 * | 5  | u8  | kind |
 * | 6  | u8  | `messages`: stream, see `Stream` |
 * | 7  | u8  | `messages`: 1 for questions and answers of `gather`, 0 otherwise |
 * | 8  | u32 | `messages`: receipt wanted under this number, 0 for none |
 * | 12 | u32 | `messages`: how many |
 * | 16 | 8 B | `messages`: hub of the publisher, written by that hub |
 * | 24 | 8 B | `messages`: publisher |
 * | 32 | f64 | `messages`: sequence number of the first one |
 * | 40 | f64 | `messages`: sent at, ms since the epoch by the publisher's clock |
 * | 48 | 8 B | `messages`: receiver in the stream `direct`, 0 otherwise |
 * | 56 | u32 | `messages`: bytes of the next field |
 * | 60 | …   | `messages`: UTF-8 JSON `[topic, …]`, each topic once |
 * | …  | …   | `messages`: UTF-8 JSON `[place of the topic, encoding, payload, …]` |
 *
 * Every other kind has UTF-8 JSON from offset 8 on. The first 56 bytes of `messages` mean the same in every version, so
 * that a release which cannot read the rest can still tell which messages it has missed.
 */
export const FRAME_VERSION = 1
export const MAX_FRAME_BYTES: number = 16 << 20

export const Kind = {
  messages: 1 as number,
  hello: 2 as number,
  welcome: 3 as number,
  refuse: 4 as number,
  receipt: 5 as number,
  members: 6 as number,
  remote: 7 as number,
  roster: 8 as number,
  who: 9 as number,
  cache: 10 as number,
  track: 11 as number,
  positions: 12 as number,
  append: 13 as number,
  log: 14 as number,
  replay: 15 as number,
  page: 16 as number,
}
const LAST_KIND = 16

/** Whom a frame of messages is for. Each publisher numbers the messages of each stream from 1 on, without holes. */
export const Stream = {
  everyone: 0 as number,
  machine: 1 as number,
  direct: 2 as number,
  primary: 3 as number,
}
const LAST_STREAM = 3

const CONTROL_HEADER_BYTES = 8
export const MESSAGES_HEADER_BYTES = 60
const HUB_OFFSET = 16
const PUBLISHER_OFFSET = 24
const TARGET_OFFSET = 48
const TOPICS_LENGTH_OFFSET = 56

/** Ids of hubs and members: 8 random bytes, as hex outside of frames. A new one for every incarnation. */
export const ID_BYTES = 8

export interface MessagesHeader {
  readonly receipt: number
  readonly count: number
  readonly hub: string
  readonly publisher: string
  readonly firstSequence: number
  readonly sentAt: number
  readonly stream: number
  /** Member id, in the stream `direct`. */
  readonly target: string
}

/** A frame of messages; `body` is the text of their JSON array. */
export function encodeMessages(
  body: string,
  {
    receipt,
    count,
    publisher,
    firstSequence,
    sentAt,
    stream = Stream.everyone,
    target = '',
    internal = false,
    topics,
  }: Omit<MessagesHeader, 'hub' | 'publisher' | 'stream' | 'target'> & {
    publisher: Buffer
    stream?: number
    target?: string
    internal?: boolean
    topics: readonly string[]
  },
): Buffer {
  const topicList = JSON.stringify(topics)
  const topicBytes = Buffer.byteLength(topicList)
  const frame = Buffer.allocUnsafe(MESSAGES_HEADER_BYTES + topicBytes + Buffer.byteLength(body))
  frame.writeUInt32LE(frame.length - 4, 0)
  frame.writeUInt32LE(FRAME_VERSION | (Kind.messages << 8) | (stream << 16), 4)
  frame.writeUInt8(internal ? 1 : 0, 7)
  frame.writeUInt32LE(receipt, 8)
  frame.writeUInt32LE(count, 12)
  frame.fill(0, HUB_OFFSET, HUB_OFFSET + ID_BYTES)
  publisher.copy(frame, PUBLISHER_OFFSET)
  frame.writeDoubleLE(firstSequence, 32)
  frame.writeDoubleLE(sentAt, 40)
  frame.fill(0, TARGET_OFFSET, TARGET_OFFSET + ID_BYTES)
  if (target !== '') frame.write(target, TARGET_OFFSET, 'hex')
  frame.writeUInt32LE(topicBytes, TOPICS_LENGTH_OFFSET)
  frame.write(topicList, MESSAGES_HEADER_BYTES)
  frame.write(body, MESSAGES_HEADER_BYTES + topicBytes)
  return frame
}

/** Marks the hub that a frame of messages came through; done in place, the hub owns what it has read. */
export function stampHub(frame: Buffer, hub: Buffer): void {
  hub.copy(frame, HUB_OFFSET)
}

export function isFromHub(frame: Buffer, hub: Buffer): boolean {
  return hub.compare(frame, HUB_OFFSET, HUB_OFFSET + ID_BYTES) === 0
}

export function hubOf(frame: Buffer): string {
  return frame.toString('hex', HUB_OFFSET, HUB_OFFSET + ID_BYTES)
}

export function receiptOf(frame: Buffer): number {
  return frame.readUInt32LE(8)
}

export function readMessagesHeader(frame: Buffer): MessagesHeader {
  return {
    receipt: frame.readUInt32LE(8),
    count: frame.readUInt32LE(12),
    hub: hubOf(frame),
    publisher: frame.toString('hex', PUBLISHER_OFFSET, PUBLISHER_OFFSET + ID_BYTES),
    firstSequence: frame.readDoubleLE(32),
    sentAt: frame.readDoubleLE(40),
    stream: frame.readUInt8(6),
    target: targetOf(frame),
  }
}

export function streamOf(frame: Buffer): number {
  return frame.readUInt8(6)
}

export function isInternal(frame: Buffer): boolean {
  return frame.readUInt8(7) === 1
}

export function targetOf(frame: Buffer): string {
  return frame.toString('hex', TARGET_OFFSET, TARGET_OFFSET + ID_BYTES)
}

/** Names one publisher's one stream: `P`, `P:m`, `P:p`, or `P>T` for what is meant for T alone. */
export function streamKey(publisher: string, stream: number, target: string): string {
  if (stream === Stream.everyone) return publisher
  if (stream === Stream.direct) return `${publisher}>${target}`
  return `${publisher}:${stream === Stream.machine ? 'm' : 'p'}`
}

export function streamKeyOf(frame: Buffer): string {
  const publisher = frame.toString('hex', PUBLISHER_OFFSET, PUBLISHER_OFFSET + ID_BYTES)
  const stream = streamOf(frame)
  return stream === Stream.everyone ? publisher : streamKey(publisher, stream, targetOf(frame))
}

export function publisherOf(streamKey: string): string {
  return streamKey.slice(0, 2 * ID_BYTES)
}

/** Sequence number of the last message in a frame of messages. */
export function lastSequenceOf(frame: Buffer): number {
  return frame.readDoubleLE(32) + frame.readUInt32LE(12) - 1
}

/** JSON text of the topics in a frame of messages: whoever wants none of them need not read on. */
export function messagesTopics(frame: Buffer): string {
  return frame.toString('utf8', MESSAGES_HEADER_BYTES, bodyOffsetOf(frame))
}

/** The JSON text of a frame of messages. */
export function messagesBody(frame: Buffer): string {
  return frame.toString('utf8', bodyOffsetOf(frame))
}

function bodyOffsetOf(frame: Buffer): number {
  return MESSAGES_HEADER_BYTES + frame.readUInt32LE(TOPICS_LENGTH_OFFSET)
}

export function encodeControl(kind: number, value: unknown): Buffer {
  const text = JSON.stringify(value)
  const frame = Buffer.allocUnsafe(CONTROL_HEADER_BYTES + Buffer.byteLength(text))
  frame.writeUInt32LE(frame.length - 4, 0)
  frame.writeUInt32LE(FRAME_VERSION | (kind << 8), 4)
  frame.write(text, CONTROL_HEADER_BYTES)
  return frame
}

/** The value of a control frame, undefined when it is no JSON object. */
export function decodeControl(frame: Buffer): Readonly<Record<string, unknown>> | undefined {
  try {
    const value = parseSafely(frame.toString('utf8', CONTROL_HEADER_BYTES))
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined // whoever sent this does not speak our protocol; the caller says what follows
  }
}

export function kindOf(frame: Buffer): number {
  return frame.readUInt8(5)
}

/** A frame that cannot be read; whatever brought it is no longer in step with us. */
export class BadFrame extends Error {}

/** Cuts a byte stream into frames. Frames are views into what was read, copied only where one spans two chunks. */
export class FrameReader {
  /** Chunks of a frame that has not arrived whole; joined once it has, since joining at every chunk is quadratic. */
  #parts: Buffer[] = []
  #partBytes = 0
  #wanted = 0; // without the semicolon the * of the generator would multiply it

  /**
   * One by one, so that those before a bad one still count.
   *
   * @throws BadFrame when a frame is too long, too short or of another version
   */
  *read(chunk: Buffer): Generator<Buffer, void, undefined> {
    let data = chunk
    if (this.#partBytes > 0) {
      // Only what belongs to the frame that has begun is copied; the rest of the chunk is read where it lies.
      const own = this.#wanted === 0 ? chunk.length : Math.min(this.#wanted - this.#partBytes, chunk.length)
      this.#parts.push(chunk.subarray(0, own))
      this.#partBytes += own
      if (this.#partBytes < this.#wanted) return
      const joined = Buffer.concat(this.#parts, this.#partBytes)
      const isFrame = this.#wanted > 0
      this.#keep(undefined)
      if (isFrame) {
        checkFrame(joined)
        yield joined
        data = chunk.subarray(own)
      } else data = joined
    }
    while (data.length >= 4) {
      const length = 4 + data.readUInt32LE(0)
      if (length > MAX_FRAME_BYTES)
        throw new BadFrame(`a frame of ${length} bytes is over the limit of ${MAX_FRAME_BYTES}`)
      if (length < CONTROL_HEADER_BYTES) throw new BadFrame(`a frame of ${length} bytes is too short`)
      if (data.length < length) {
        this.#wanted = length
        break
      }
      const frame = data.subarray(0, length)
      checkFrame(frame)
      yield frame
      data = data.subarray(length)
    }
    if (data.length > 0) this.#keep(data)
  }

  #keep(data: Buffer | undefined): void {
    this.#parts = data ? [data] : []
    this.#partBytes = data ? data.length : 0
    if (!data) this.#wanted = 0
  }
}

/** All frames of one Redis message; `onOther` gets those of another release, whose numbers alone can be read. */
export function framesOf(
  message: Buffer,
  onOther?: (version: number, messages: Buffer | undefined) => void,
): readonly Buffer[] {
  const frames: Buffer[] = []
  let offset = 0
  while (offset < message.length) {
    if (message.length - offset < CONTROL_HEADER_BYTES)
      throw new BadFrame(`${message.length - offset} stray bytes at the end`)
    const end = offset + 4 + message.readUInt32LE(offset)
    if (end > message.length) throw new BadFrame('a frame ends behind its message')
    const frame = message.subarray(offset, end)
    if (frame.length < CONTROL_HEADER_BYTES)
      throw new BadFrame(`a frame of ${frame.length} bytes is too short`)
    offset = end
    if (onOther && frame.readUInt8(4) !== FRAME_VERSION) {
      const readable = kindOf(frame) === Kind.messages && frame.length >= MESSAGES_HEADER_BYTES
      onOther(frame.readUInt8(4), readable ? frame : undefined)
      continue
    }
    checkFrame(frame)
    frames.push(frame)
  }
  return frames
}

function checkFrame(frame: Buffer): void {
  const version = frame.readUInt8(4)
  if (version !== FRAME_VERSION)
    throw new BadFrame(`frame version ${version}, this process speaks ${FRAME_VERSION}`)
  const kind = kindOf(frame)
  if (kind < 1 || kind > LAST_KIND) throw new BadFrame(`unknown frame kind ${kind}`)
  if (kind === Kind.messages && frame.length < MESSAGES_HEADER_BYTES)
    throw new BadFrame('a frame of messages is too short')
  if (kind === Kind.messages && streamOf(frame) > LAST_STREAM)
    throw new BadFrame(`unknown stream ${streamOf(frame)}`)
}
