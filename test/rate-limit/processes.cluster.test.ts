import { expect, test } from 'vitest'
import type { RateLimitAlgorithm } from '../../src/rate-limit/index.ts'
import { freePort, runNode } from '../helpers/fork.ts'
import { get } from '../helpers/http.ts'
import { sharedRedis, startRedis, startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'

const fixture = (name: string): URL => new URL(`fixtures/${name}`, import.meta.url)

interface Answer {
  status: number
  pid: number
  source: 'redis' | 'known' | 'local'
}

interface Start {
  redisUrl: string
  workers: number
  limit: number
  per: string
  algorithm?: RateLimitAlgorithm
}

/** Workers that serve, and a visitor who calls himself by a key. */
async function startWorkers({ redisUrl, ...options }: Start): Promise<(key: string) => Promise<Answer>> {
  const port = await freePort()
  const namespace = testNamespace()
  const primary = runNode(fixture('server.mjs'), {
    ipc: true,
    env: { PORT: String(port), REDIS_URL: redisUrl, NAMESPACE: namespace, OPTIONS: JSON.stringify(options) },
  })
  await primary.waitFor(() => primary.exited || primary.messages.length > 0, 30_000)
  if (primary.exited) throw new Error(primary.stderr())
  return async (key) => {
    const reply = await get(`http://127.0.0.1:${port}/`, { headers: { 'x-key': key } })
    return { status: reply.status, ...reply.json<Omit<Answer, 'status'>>() }
  }
}

const many = (count: number, visit: () => Promise<Answer>): Promise<Answer[]> =>
  Promise.all(Array.from({ length: count }, visit))

for (const algorithm of ['sliding-window', 'gcra', 'fixed-window'] satisfies RateLimitAlgorithm[]) {
  for (const where of ['one Redis', 'a 3-master Cluster']) {
    test(`${algorithm} on ${where}: of 200 requests at once to two workers exactly 50 are admitted`, async () => {
      const redisUrl = where === 'one Redis' ? sharedRedis().url : (await startRedisCluster()).url
      const visit = await startWorkers({ redisUrl, workers: 2, limit: 50, per: '1h', algorithm })
      for (let attempt = 1; ; attempt++) {
        const answers = await many(200, () => visit(`client-${attempt}`))
        // On a busy machine Redis may not answer in time; then it is not Redis that is tested.
        if (attempt < 5 && answers.some(({ source }) => source === 'local')) continue
        expect(new Set(answers.map(({ pid }) => pid)).size).toBe(2)
        expect(answers.filter(({ status }) => status === 200)).toHaveLength(50)
        expect(answers.filter(({ status }) => status === 429)).toHaveLength(150)
        break
      }
    })
  }
}

test('Redis killed: each of two workers admits at most half of the limit, nobody waits, Redis takes over again', async () => {
  const redis = await startRedis()
  const visit = await startWorkers({ redisUrl: redis.url, workers: 2, limit: 10, per: '1h' })
  await until(
    async () => {
      const answers = await many(8, () => visit('warm'))
      return (
        answers.every(({ source }) => source === 'redis') && new Set(answers.map(({ pid }) => pid)).size === 2
      )
    },
    { what: 'both workers to decide by Redis' },
  )
  await redis.kill()
  const answers = await many(60, () => visit('client'))
  expect(new Set(answers.map(({ source }) => source))).toEqual(new Set(['local']))
  const admitted = new Map<number, number>()
  for (const { pid, status } of answers) {
    expect([200, 429]).toContain(status)
    admitted.set(pid, (admitted.get(pid) ?? 0) + (status === 200 ? 1 : 0))
  }
  expect([...admitted.values()]).toEqual([5, 5])
  await redis.restart()
  await until(async () => (await visit('after')).source === 'redis', { what: 'Redis to decide again' })
})
