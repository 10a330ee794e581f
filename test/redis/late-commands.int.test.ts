import { expect, test } from 'vitest'
import { failLateCommands } from '../../src/redis/late-commands.ts'
import { startRedis } from '../helpers/redis.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'

/** Longer than any deadline here, without a turn of the loop. */
function stall(ms: number): void {
  for (const until = performance.now() + ms; performance.now() < until; );
}

test('a command without an answer fails after its time, the ones before and after it by their own', async () => {
  const redis = await startRedis()
  const client = redis.client({ lazyConnect: true })
  failLateCommands(client, { commandMs: 300, silenceMs: 60_000 })
  await client.connect()
  await redis.pause()
  const startedAt = performance.now()
  const failed: number[] = []
  const ask = (): Promise<void> =>
    client.ping().then(
      () => {},
      (error: Error) => {
        expect(error.message).toMatch(/timed out after 300 ms/)
        failed.push(performance.now() - startedAt)
      },
    )
  const first = [ask(), ask()]
  await new Promise((resolve) => setTimeout(resolve, 200))
  const thirdAt = performance.now() - startedAt
  await Promise.all([...first, ask()])
  expect(failed.length).toBe(3)
  for (const after of failed.slice(0, 2)) expect(after).toBeGreaterThanOrEqual(295)
  expect(failed[2]! - thirdAt).toBeGreaterThan(270) // not with the first: ten looks, each up to 1 ms early or more
  await redis.resume()
  // The replies that came too late belong to those commands and to no other.
  expect(await client.echo('mine')).toBe('mine')
})

test('an answer that arrived while the event loop was stalled counts', async () => {
  const redis = await startRedis()
  const client = redis.client({ lazyConnect: true })
  failLateCommands(client, { commandMs: 300, silenceMs: 60_000 })
  await client.connect()
  for (let i = 0; i < 5; i++) {
    const answer = client.echo(`${i}`)
    await new Promise((resolve) => setTimeout(resolve, 40)) // sent, and looked at at least once
    const next = client.echo(`next ${i}`)
    stall(400)
    expect(await answer).toBe(`${i}`)
    expect(await next).toBe(`next ${i}`)
  }
})

test('a connection that says nothing is given up and made anew', async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const client = redis.client({ port: proxy.port, lazyConnect: true, retryStrategy: () => 10 })
  failLateCommands(client, { commandMs: 100, silenceMs: 300 })
  await client.connect()
  const errors: Error[] = []
  client.on('error', (error) => errors.push(error))
  proxy.freeze('down')
  const closed = new Promise((resolve) => client.once('close', resolve))
  await expect(client.ping()).rejects.toThrow(/timed out/)
  await closed
  expect(errors.map(({ message }) => message)).toContainEqual(
    expect.stringMatching(/nothing came from Redis for 300 ms/),
  )
})

test('one that is slow but talks is not', async () => {
  const redis = await startRedis()
  const client = redis.client({ lazyConnect: true })
  failLateCommands(client, { commandMs: 10_000, silenceMs: 300 })
  await client.connect()
  let closed = false
  client.once('close', () => {
    closed = true
  })
  for (const until = performance.now() + 900; performance.now() < until; ) {
    await client.blpop('never', 0.1) // always one in flight, an answer every 100 ms
  }
  expect(closed).toBe(false)
})
