import { expect, onTestFinished, test } from 'vitest'
import { encodeMessages, Stream } from '../../src/bus/frame.ts'
import { createEars, type Gap } from '../../src/bus/positions.ts'
import { createReceiver, type MessageHandler } from '../../src/bus/receiver.ts'
import { createTopicTable } from '../../src/bus/topics.ts'
import { channels } from '../../src/core/channels.ts'

const publisher = Buffer.from('0123456789abcdef', 'hex')
const from = publisher.toString('hex')

function receiver() {
  const gaps: Gap[] = []
  const bad: unknown[] = []
  const onBus = (event: unknown): void => {
    if ((event as { event: string }).event === 'bad-frame') bad.push(event)
  }
  channels.bus.subscribe(onBus)
  onTestFinished(() => void channels.bus.unsubscribe(onBus))
  const table = createTopicTable<MessageHandler>()
  const heard: [topic: string, payload: unknown, sequence: number][] = []
  const asked: unknown[] = []
  const ears = createEars('f'.repeat(16), (gap) => gaps.push(gap))
  ears.connected(true)
  const { receive, receiveOwn } = createReceiver({
    id: 'f'.repeat(16),
    ears,
    subscribers: (stream) => (stream === Stream.everyone ? table : undefined),
    onInternal: (_topic, payload) => asked.push(payload),
    onFailure(error) {
      throw error
    },
  })
  const listen = (topic: string): (() => void) =>
    table.add(topic, (payload, { topic: on, sequence }) => heard.push([on, payload, sequence]))
  return { receive, receiveOwn, listen, heard, asked, gaps, bad }
}

function frameOf(
  body: string,
  firstSequence: number,
  count: number,
  { topics = ['a'], internal = false }: { topics?: string[]; internal?: boolean } = {},
): Buffer {
  return encodeMessages(body, { receipt: 0, count, publisher, firstSequence, sentAt: 5, topics, internal })
}

test('what came by two paths is handled once, whole frames and parts of them', () => {
  const { receive, listen, heard, gaps } = receiver()
  listen('a')
  receive(frameOf('[0,0,1,0,0,2]', 1, 2))
  receive(frameOf('[0,0,1,0,0,2]', 1, 2))
  receive(frameOf('[0,0,2]', 2, 1))
  receive(frameOf('[0,0,2,0,0,3]', 2, 2))
  receive(frameOf('[0,0,1]', 1, 1))
  receive(frameOf('[0,0,4]', 4, 1))
  expect(heard).toEqual([
    ['a', 1, 1],
    ['a', 2, 2],
    ['a', 3, 3],
    ['a', 4, 4],
  ])
  expect(gaps).toEqual([])
})

test('a duplicate of a question asks nobody again', () => {
  const { receive, asked } = receiver()
  for (let time = 0; time < 2; time++) receive(frameOf('[0,0,"?"]', 1, 1, { internal: true }))
  expect(asked).toEqual(['?'])
})

test('what nobody here wants is counted and not read', () => {
  const { receive, listen, heard, gaps, bad } = receiver()
  receive(frameOf('no JSON, and nobody listens at all', 1, 2))
  const stop = listen('b')
  receive(frameOf('no JSON, and nobody listens to this', 3, 2, { topics: ['a', 'c'] }))
  receive(frameOf('[0,0,5]', 5, 1, { topics: ['b'] }))
  receive(frameOf('[0,0,6,1,0,7]', 6, 2, { topics: ['a', 'b'] }))
  stop()
  listen('a.*')
  receive(frameOf('[0,0,8]', 8, 1, { topics: ['a.b'] }))
  expect(heard).toEqual([
    ['b', 5, 5],
    ['b', 7, 7],
    ['a.b', 8, 8],
  ])
  expect({ gaps, bad }).toEqual({ gaps: [], bad: [] })
})

test.each<[string, Buffer]>([
  ['no list of topics', encodeMessages('[0,0,1]', { ...header(), topics: { length: 1 } as never })],
  ['fewer messages than it says', frameOf('[0,0,1]', 1, 2)],
  ['no JSON', frameOf('nonsense', 1, 1)],
  ['topics that reach behind its end', longTopics()],
])('a frame with %s is missed by number', (_what, frame) => {
  const { receive, listen, heard, gaps, bad } = receiver()
  listen('a')
  receive(frameOf('[0,0,1]', 1, 1))
  const shifted = Buffer.from(frame)
  shifted.writeDoubleLE(2, 32)
  receive(shifted)
  const next = 2 + shifted.readUInt32LE(12)
  receive(frameOf(`[0,0,${next}]`, next, 1))
  expect(bad).toHaveLength(1)
  expect(heard.map(([, payload]) => payload)).toEqual([1, next])
  expect(gaps).toEqual([expect.objectContaining({ publisher: from, from: 2, to: next - 1 })])
})

test('own messages: once for each receiver here, and not parsed for nobody', () => {
  const { receiveOwn, listen, heard } = receiver()
  listen('a')
  receiveOwn({ body: 'no JSON', topics: ['b'], firstSequence: 1, sentAt: 0 })
  receiveOwn({ body: '[0,0,2]', topics: ['a'], firstSequence: 2, sentAt: 0 })
  expect(heard.map(([, payload]) => payload)).toEqual([2])
})

function header() {
  return { receipt: 0, count: 1, publisher, firstSequence: 1, sentAt: 5 }
}

function longTopics(): Buffer {
  const frame = frameOf('[0,0,1]', 1, 1, { topics: ['a'] })
  frame.writeUInt32LE(0xffff_ffff, 56)
  return frame
}
