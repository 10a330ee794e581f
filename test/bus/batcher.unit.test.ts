import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { createBatcher, type OwnMessages } from '../../src/bus/batcher.ts'
import { messagesBody, messagesTopics, readMessagesHeader } from '../../src/bus/frame.ts'

const publisher = Buffer.from('0123456789abcdef', 'hex')

function batcher(maxMessageBytes = 4 << 20) {
  const world = {
    joined: true,
    sent: [] as Buffer[],
    dropped: [] as number[],
    own: [] as OwnMessages[],
  }
  const made = createBatcher({
    publisher,
    maxMessageBytes,
    send(frame) {
      if (world.joined) world.sent.push(frame)
      return world.joined
    },
    drop: (receipt) => void world.dropped.push(receipt),
    receiveOwn: (messages) => void world.own.push(messages),
  })
  return { ...made, world }
}

test('what was said before there is a hub goes out when there is one, in order', async () => {
  const { add, flush, world } = batcher()
  world.joined = false
  for (let at = 0; at < 5; at++) {
    add('news', at, true, at === 2 ? 7 : 0)
    await nextTurn()
  }
  expect(world.own.map(({ body }) => body)).toEqual([0, 1, 2, 3, 4].map((at) => `[0,0,${at}]`)) // local first
  world.joined = true
  add('news', 5, true, 0)
  flush()
  expect(world.sent.map((frame) => readMessagesHeader(frame).firstSequence)).toEqual([1, 2, 3, 4, 5, 6])
  expect(readMessagesHeader(world.sent[2]!).receipt).toBe(7)
  expect(world.dropped).toEqual([])
})

test('… of more than 8 MiB the newest, the rest is missed by number and its publishers are told', () => {
  const { add, flush, positions, world } = batcher()
  world.joined = false
  const text = 'x'.repeat((1 << 20) - 200)
  for (let at = 1; at <= 12; at++) add('news', text, false, at)
  expect(world.dropped.filter((receipt) => receipt !== 0)).toEqual([1, 2, 3, 4])
  world.joined = true
  flush()
  const kept = world.sent.map((frame) => readMessagesHeader(frame).firstSequence)
  expect(kept).toEqual([5, 6, 7, 8, 9, 10, 11, 12])
  expect(world.sent.reduce((sum, frame) => sum + frame.length, 0)).toBeLessThanOrEqual(8 << 20)
  expect(positions()).toEqual([['0123456789abcdef', 12]])
})

test('a single frame over the limit is still kept: there is nothing older to give up', () => {
  const { add, flush, world } = batcher(16 << 20)
  world.joined = false
  add('news', 'x'.repeat(9 << 20), false, 1)
  world.joined = true
  flush()
  expect(world.sent).toHaveLength(1)
  expect(world.dropped).toEqual([])
})

test('a frame names each of its topics once, and ends when they are as long as messages may get', () => {
  const { add, flush, world } = batcher()
  for (const topic of ['a', 'b', 'a', 'ä"', 'ä"']) add(topic, topic, true, 0)
  flush()
  for (let at = 0; at < 400; at++) add(`${at}`.padEnd(256, 't'), 1, true, 0)
  flush()
  expect(messagesTopics(world.sent[0]!)).toBe('["a","b","ä\\""]')
  expect(world.own[0]!.topics).toEqual(['a', 'b', 'ä"'])
  const body = '[0,0,"a",1,0,"b",0,0,"a",2,0,"ä\\"",2,0,"ä\\""]'
  expect([messagesBody(world.sent[0]!), world.own[0]!.body]).toEqual([body, body])
  const topics = world.sent.slice(1).map((frame) => JSON.parse(messagesTopics(frame)) as string[])
  expect(topics.flat()).toEqual(Array.from({ length: 400 }, (_, at) => `${at}`.padEnd(256, 't')))
  expect(topics.length).toBeGreaterThan(2)
  for (const frame of world.sent) expect(frame.length).toBeLessThan(34 << 10)
})
