import { expect, test } from 'vitest'
import { createStore } from '../../src/session/index.ts'
import { isLong, long } from '../helpers/long.ts'
import { startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { worker } from './app.ts'

const many = long(3_000, 200_000)

test(`${many} sessions on 3 masters: length, all and clear see every one, others hardly wait`, {
  timeout: 300_000,
}, async () => {
  const { url } = await startRedisCluster()
  const namespace = testNamespace()
  const ctx = worker(url, namespace)
  const client = await ctx.redis.ready()
  const store = createStore(ctx)
  const cookie = '{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/"}'
  for (let i = 0; i < many; i += 500) {
    await Promise.all(
      Array.from({ length: Math.min(500, many - i) }, async (_, j) => {
        const key = `${namespace}:s:${i + j}`
        await Promise.all([
          client.hset(key, { cookie, n: i + j, '~created': 1 }),
          client.pexpire(key, 3_600_000),
        ])
      }),
    )
  }
  await client.set('foreign', 1, 'EX', 60)

  // Another client of the same masters, in a connection of its own.
  const other = await worker(url, testNamespace()).redis.ready()
  const nodes = 'nodes' in other ? other.nodes('master') : []
  let slowest = 0
  const slowlog = async (): Promise<number> => {
    const logs = await Promise.all(
      nodes.map((node) => node.slowlog('GET', 100) as Promise<[number, number, number][]>),
    )
    return Math.max(0, ...logs.flat().map(([, , micros]) => micros)) / 1_000
  }
  await Promise.all(
    nodes.map(async (node) => {
      await node.config('SET', 'slowlog-log-slower-than', '1000')
      await node.slowlog('RESET')
    }),
  )

  const timed = async <T>(name: string, run: (callback: (error: unknown, result?: T) => void) => unknown) => {
    const began = performance.now()
    const result = await new Promise<T | undefined>((resolve, reject) => {
      run((error, found) => (error ? reject(error) : resolve(found)))
    })
    slowest = Math.max(slowest, await slowlog())
    console.log(
      `${name} of ${many}: ${(performance.now() - began).toFixed(0)} ms, longest command so far ${slowest} ms`,
    )
    return result
  }
  expect(await timed('length', (callback) => store.length?.(callback))).toBe(many)
  const all = (await timed('all', (callback) => store.all?.(callback as never))) as unknown as { n: number }[]
  expect(new Set(all.map(({ n }) => n)).size).toBe(many)
  await timed('clear', (callback) => store.clear?.(callback))
  expect(await timed('length', (callback) => store.length?.(callback))).toBe(0)
  expect(await client.get('foreign')).toBe('1')
  // What one command takes is what everybody else waits for.
  if (isLong) expect(slowest).toBeLessThan(20)
})
