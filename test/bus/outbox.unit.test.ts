import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { createOutbox, type SendBatch } from '../../src/bus/outbox.ts'
import type { RedisConnection } from '../../src/redis/client.ts'
import { until } from '../helpers/until.ts'

interface Publish {
  message: string
  resolve(listeners?: number): void
  reject(error: Error): void
}

/** A connection whose PUBLISHes the test answers. */
function fakeConnection(): { connection: RedisConnection; published: Publish[]; up: boolean } {
  const fake = {
    up: true,
    published: [] as Publish[],
    connection: {
      get now() {
        return fake.up ? client : undefined
      },
    } as unknown as RedisConnection,
  }
  const client = {
    publish: (_channel: string, message: Buffer) =>
      new Promise<number | undefined>((resolve, reject) => {
        fake.published.push({ message: message.toString('latin1'), resolve, reject })
      }),
  }
  return fake
}

const publish: SendBatch = (client, frames) => (client as Redis).publish('channel', Buffer.concat(frames))

const frame = (text: string): Buffer => Buffer.from(text)

test('all of a tick in one PUBLISH, and never two at once', async () => {
  const { connection, published } = fakeConnection()
  const outbox = createOutbox(connection, publish)
  const told: string[] = []
  for (const text of ['a', 'b', 'c']) outbox.add(frame(text), (outcome) => told.push(`${text} ${outcome}`))
  await until(() => published.length === 1, { what: 'a PUBLISH' })
  outbox.add(frame('d'))
  outbox.add(frame('e'))
  outbox.flush()
  await nextTurn()
  await nextTurn()
  expect(published.map(({ message }) => message)).toEqual(['abc'])
  expect(told).toEqual([])
  published[0]!.resolve()
  await until(() => published.length === 2, { what: 'the second PUBLISH' })
  expect(published[1]!.message).toBe('de')
  expect(told).toEqual(['a sent', 'b sent', 'c sent'])
})

test('what follows at once shares the next PUBLISH, unless somebody waits for it', async () => {
  const { connection, published } = fakeConnection()
  const outbox = createOutbox(connection, publish)
  for (let at = 0; at < 200; at++) {
    outbox.add(frame(`${at} `))
    for (const { resolve } of published) resolve()
    await nextTurn()
  }
  void outbox.drain(5_000)
  const whole = Array.from({ length: 200 }, (_, at) => `${at} `).join('')
  await until(
    () => {
      for (const { resolve } of published) resolve()
      return published.map(({ message }) => message).join('').length === whole.length
    },
    { what: 'all to be sent' },
  )
  await nextTurn()
  const messages = published.map(({ message }) => message)
  expect(messages[0]).toBe('0 ') // the first after a pause goes at once
  expect(messages.join('')).toBe(whole)
  expect(messages.length).toBeLessThan(100)
  let outcome = ''
  const sentBefore = published.length
  outbox.add(frame('x'))
  outbox.add(frame('y'), (told) => {
    outcome = told
  })
  await nextTurn()
  expect(published.length).toBe(sentBefore + 1)
  published.at(-1)!.resolve()
  await until(() => outcome === 'sent', { what: 'the receipt' })
})

test('one that failed is sent again before what came after it, and its publisher is told once', async () => {
  const { connection, published } = fakeConnection()
  const outbox = createOutbox(connection, publish)
  const told: string[] = []
  outbox.add(frame('a'), (outcome) => told.push(`a ${outcome}`))
  await until(() => published.length === 1, { what: 'a PUBLISH' })
  outbox.add(frame('b'), (outcome) => told.push(`b ${outcome}`))
  published[0]!.reject(new Error('Connection is closed.'))
  await until(() => published.length === 2, { what: 'another attempt' })
  expect(published[1]!.message).toBe('ab')
  expect(told).toEqual(['a queued', 'b queued'])
  published[1]!.resolve()
  await nextTurn()
  expect(told).toHaveLength(2)
})

test.each(['NOPERM no', 'NOAUTH who', 'ERR unknown command'])(
  '%j is for good: dropped, and the next goes on',
  async (reason) => {
    const { connection, published } = fakeConnection()
    const outbox = createOutbox(connection, publish)
    const told: string[] = []
    outbox.add(frame('a'), (outcome) => told.push(`a ${outcome}`))
    await until(() => published.length === 1, { what: 'a PUBLISH' })
    outbox.add(frame('b'), (outcome) => told.push(`b ${outcome}`))
    published[0]!.reject(new Error(reason))
    await until(() => published.length === 2, { what: 'the next' })
    published[1]!.resolve()
    await until(() => told.length === 2, { what: 'both outcomes' })
    expect(published[1]!.message).toBe('b')
    expect(told).toEqual(['a dropped', 'b sent'])
  },
)

test('without a connection things wait, up to 8 MiB, and the oldest go first', async () => {
  const fake = fakeConnection()
  fake.up = false
  const outbox = createOutbox(fake.connection, publish)
  const told: string[] = []
  const big = 'x'.repeat(1 << 20)
  for (let at = 0; at < 10; at++) outbox.add(frame(`${at}${big}`), (outcome) => told.push(`${at} ${outcome}`))
  await until(() => told.length === 10, { what: 'all outcomes' })
  expect(told.filter((one) => one.endsWith('dropped'))).toEqual(['0 dropped', '1 dropped', '2 dropped'])
  fake.up = true
  outbox.flush()
  for (let at = 3; at < 10; at++) {
    await until(() => fake.published.length === at - 2, { what: 'the next PUBLISH' })
    expect(fake.published.at(-1)!.message[0]).toBe(String(at))
    expect(fake.published.at(-1)!.message.length).toBeLessThanOrEqual((1 << 20) + 1)
    fake.published.at(-1)!.resolve()
  }
})

test('how many have got a batch is told, and that it is not known once one has failed', async () => {
  const { connection, published } = fakeConnection()
  const told: unknown[] = []
  const outbox = createOutbox(connection, publish, (listeners) => told.push(listeners))
  outbox.add(frame('a'), undefined, (listeners) => told.push(`a ${listeners}`))
  await until(() => published.length === 1, { what: 'a PUBLISH' })
  published[0]!.reject(new Error('the connection closed'))
  await until(() => published.length === 2, { what: 'it to be sent again' })
  outbox.add(frame('b'))
  published[1]!.resolve(3)
  await until(() => published.length === 3, { what: 'the next' })
  expect(told).toEqual([undefined, 3, 'a 3'])
})

test('drain: at once when there is nothing, when all has been sent, or at its deadline', async () => {
  const { connection, published } = fakeConnection()
  const outbox = createOutbox(connection, publish)
  await outbox.drain(10_000)
  outbox.add(frame('a'))
  let drained = 0
  const draining = [1, 2].map(() => outbox.drain(10_000).then(() => drained++))
  await until(() => published.length === 1, { what: 'a PUBLISH' })
  outbox.add(frame('b'))
  published[0]!.resolve()
  await until(() => published.length === 2, { what: 'the second PUBLISH' })
  expect(drained).toBe(0)
  published[1]!.resolve()
  await Promise.all(draining)
  outbox.add(frame('c'))
  const startedAt = performance.now()
  await outbox.drain(50)
  expect(performance.now() - startedAt).toBeGreaterThanOrEqual(45)
})
