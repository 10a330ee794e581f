import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  BadFrame,
  decodeControl,
  encodeControl,
  encodeMessages,
  FRAME_VERSION,
  FrameReader,
  framesOf,
  isFromHub,
  Kind,
  kindOf,
  MAX_FRAME_BYTES,
  MESSAGES_HEADER_BYTES,
  messagesBody,
  messagesTopics,
  readMessagesHeader,
  receiptOf,
  Stream,
  stampHub,
} from '../../src/bus/frame.ts'
import { fcParams } from '../helpers/random.ts'

const id = fc.uint8Array({ minLength: 8, maxLength: 8 }).map((bytes) => Buffer.from(bytes))
const header = fc.record({
  receipt: fc.nat(0xffff_ffff),
  count: fc.nat(0xffff_ffff),
  publisher: id,
  firstSequence: fc.maxSafeNat(),
  sentAt: fc.maxSafeNat(),
})
const text = fc.string({ unit: 'grapheme' })
const control = fc
  .tuple(
    fc.integer({ min: Kind.hello, max: Kind.who }),
    // What a stranger may call `__proto__` is left out, here and by the reader.
    fc
      .dictionary(fc.string(), fc.jsonValue())
      .filter((value) => !JSON.stringify(value).includes('__proto__')),
  )
  .map(([kind, value]) => encodeControl(kind, value))
const topicList = fc.array(text, { maxLength: 3 })
const messages = fc
  .tuple(text, header, topicList)
  .map(([body, head, topics]) => encodeMessages(body, { ...head, topics }))
const stream = fc.array(fc.oneof(control, messages), { maxLength: 20 })

test('a frame of messages carries its header and body', () => {
  fc.assert(
    fc.property(text, header, topicList, id, (body, head, topics, hub) => {
      const frame = encodeMessages(body, { ...head, topics })
      expect(kindOf(frame)).toBe(Kind.messages)
      expect(receiptOf(frame)).toBe(head.receipt)
      expect(messagesBody(frame)).toBe(body)
      expect(JSON.parse(messagesTopics(frame))).toEqual(topics)
      expect(readMessagesHeader(frame)).toEqual({
        ...head,
        publisher: head.publisher.toString('hex'),
        hub: '0'.repeat(16),
        stream: Stream.everyone,
        target: '0'.repeat(16),
      })
      stampHub(frame, hub)
      expect(isFromHub(frame, hub)).toBe(true)
      expect(isFromHub(frame, Buffer.from(hub.map((byte) => byte ^ 1)))).toBe(false)
      expect(readMessagesHeader(frame)).toMatchObject({ hub: hub.toString('hex'), count: head.count })
      expect(messagesBody(frame)).toBe(body)
    }),
    fcParams(),
  )
})

test('control frames carry objects; anything else reads as undefined', () => {
  expect(decodeControl(encodeControl(Kind.roster, { a: ['ä'] }))).toEqual({ a: ['ä'] })
  expect(kindOf(encodeControl(Kind.who, {}))).toBe(Kind.who)
  for (const value of [null, 5, 'text', true])
    expect(decodeControl(encodeControl(Kind.who, value))).toBeUndefined()
  const broken = encodeControl(Kind.who, {})
  broken.write('x', 8)
  expect(decodeControl(broken)).toBeUndefined()
})

function chunked(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const at = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]
  return at.slice(1).map((end, index) => bytes.subarray(at[index], end))
}

test('the reader finds every frame, however the stream is cut', () => {
  fc.assert(
    fc.property(stream, fc.array(fc.nat(10_000), { maxLength: 30 }), (frames, cuts) => {
      const reader = new FrameReader()
      const found = chunked(Buffer.concat(frames), cuts).flatMap((chunk) => [...reader.read(chunk)])
      expect(found).toEqual(frames)
    }),
    fcParams(),
  )
})

test('… byte by byte, and in one piece', () => {
  fc.assert(
    fc.property(stream, (frames) => {
      const bytes = Buffer.concat(frames)
      const reader = new FrameReader()
      expect(Array.from(bytes, (byte) => [...reader.read(Buffer.of(byte))]).flat()).toEqual(frames)
      expect([...new FrameReader().read(bytes)]).toEqual(frames)
      expect(framesOf(bytes)).toEqual(frames)
    }),
    fcParams({ numRuns: 30 }),
  )
})

test('a long frame in many chunks is not joined again and again', () => {
  const frame = encodeControl(Kind.roster, { text: 'x'.repeat(15 << 20) })
  const reader = new FrameReader()
  const startedAt = performance.now()
  let found = 0
  for (let at = 0; at < frame.length; at += 1_000)
    found += [...reader.read(frame.subarray(at, at + 1_000))].length
  expect(found).toBe(1)
  expect(performance.now() - startedAt).toBeLessThan(2_000) // quadratic would be 15 GB copied per million chunks
})

function withBytes(frame: Buffer, write: (frame: Buffer) => void): Buffer {
  const copy = Buffer.from(frame)
  write(copy)
  return copy
}

const good = encodeControl(Kind.who, { hub: 'x' })
const bad: [string, Buffer, RegExp][] = [
  ['too long', withBytes(good, (frame) => frame.writeUInt32LE(MAX_FRAME_BYTES - 3, 0)), /over the limit/],
  ['longest number', withBytes(good, (frame) => frame.writeUInt32LE(0xffff_ffff, 0)), /over the limit/],
  ['too short', withBytes(good, (frame) => frame.writeUInt32LE(3, 0)), /too short/],
  ['empty', Buffer.alloc(4), /too short/],
  ['another version', withBytes(good, (frame) => frame.writeUInt8(FRAME_VERSION + 1, 4)), /version 2/],
  ['kind 0', withBytes(good, (frame) => frame.writeUInt8(0, 5)), /unknown frame kind 0/],
  ['an unknown kind', withBytes(good, (frame) => frame.writeUInt8(255, 5)), /unknown frame kind 255/],
  ['messages without header', withBytes(good, (frame) => frame.writeUInt8(Kind.messages, 5)), /too short/],
]

test.each(bad)('%s is refused by the reader', (_what, frame, reason) => {
  expect(() => [...new FrameReader().read(frame)]).toThrow(BadFrame)
  expect(() => [...new FrameReader().read(frame)]).toThrow(reason)
})

test('frames before a bad one still count', () => {
  const found: Buffer[] = []
  expect(() => {
    for (const frame of new FrameReader().read(Buffer.concat([good, good, Buffer.alloc(8)])))
      found.push(frame)
  }).toThrow(BadFrame)
  expect(found).toEqual([good, good])
})

test('an announced length over the limit is refused before the bytes are there', () => {
  const head = Buffer.alloc(4)
  head.writeUInt32LE(MAX_FRAME_BYTES, 0)
  expect(() => [...new FrameReader().read(head)]).toThrow(/over the limit/)
})

test('a Redis message is frames behind each other, or nothing', () => {
  expect(framesOf(Buffer.alloc(0))).toEqual([])
  const two = Buffer.concat([good, good])
  expect(framesOf(two)).toEqual([good, good])
  for (let length = 1; length < two.length; length++) {
    if (length === good.length) continue
    expect(() => framesOf(two.subarray(0, length))).toThrow(BadFrame)
  }
})

test('whatever bytes come, the answer is frames or BadFrame', () => {
  const nearly = fc
    .tuple(stream, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 5 }))
    .map(([frames, flips]) => {
      const bytes = Buffer.concat(frames)
      if (bytes.length > 0) for (const [at, value] of flips) bytes[at % bytes.length] = value
      return bytes
    })
  const anything = fc.oneof(
    nearly,
    fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  )
  fc.assert(
    fc.property(anything, (bytes) => {
      for (const read of [() => framesOf(bytes), () => new FrameReader().read(bytes)]) {
        try {
          for (const frame of read()) {
            if (kindOf(frame) === Kind.messages)
              expect(frame.length).toBeGreaterThanOrEqual(MESSAGES_HEADER_BYTES)
            else decodeControl(frame)
          }
        } catch (error) {
          expect(error).toBeInstanceOf(BadFrame)
        }
      }
    }),
    fcParams({ numRuns: 300 }),
  )
})
