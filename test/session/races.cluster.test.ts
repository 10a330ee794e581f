import { expect, test } from 'vitest'
import { type NodeProcess, runNode } from '../helpers/fork.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { monitor } from '../helpers/monitor.ts'
import { sharedRedis, sharedRedisClient, startRedis, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'

const fixture = new URL('fixtures/worker.js', import.meta.url)
const workers = 2

interface Race {
  urls: string[]
  jar: CookieJar
  /** All requests have loaded the session before the first one goes on. */
  run(paths: readonly string[], before?: () => Promise<unknown>): Promise<string[]>
  session(): Promise<Record<string, unknown>>
  storedKeys(): Promise<string[]>
}

/** The same races for us and for express-session with connect-redis, each on processes of its own. */
async function race(contender: 'ours' | 'theirs'): Promise<Race> {
  const namespace = testNamespace()
  const env = { CONTENDER: contender, REDIS: sharedRedis().url, NAMESPACE: namespace }
  const processes: NodeProcess[] = Array.from({ length: workers }, () => runNode(fixture, { env, ipc: true }))
  const urls = await Promise.all(
    processes.map(async (each) => `http://127.0.0.1:${(await each.waitFor(/port (\d+)/, 30_000))[1]}`),
  )
  const jar = new CookieJar()
  for (const url of [...urls].reverse()) await get(`${url}/`)
  await get(`${urls[0]}/start`, { jar })
  const headers = { cookie: jar.header() ?? '' }
  const waiting = () =>
    processes.reduce((sum, { messages }) => sum + ((messages.at(-1) as { waiting: number })?.waiting ?? 0), 0)
  return {
    urls,
    jar,
    async run(paths, before) {
      const replies = paths.map((path, i) => get(urls[i % workers] + path, { headers, timeout: 30_000 }))
      await until(() => waiting() === paths.length, {
        what: 'all to have loaded the session',
        deadline: 20_000,
      })
      await before?.()
      for (const each of processes) each.send('go')
      const all = await Promise.all(replies)
      expect(new Set(all.map(({ status }) => status))).toEqual(new Set([200]))
      return all.map(({ body }) => body)
    },
    session: async () => (await get(`${urls[0]}/`, { headers })).json(),
    storedKeys: () => sharedRedisClient().keys(`${namespace}:*`),
  }
}

const contenders = ['ours', 'theirs'] as const
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
const told = (what: string, { ours, theirs }: Record<string, unknown>): void =>
  console.log(`${what}, ${workers} processes: ours ${ours}, express-session + connect-redis ${theirs}`)

async function both<T>(
  run: (race: Race, contender: string) => Promise<T>,
): Promise<Record<'ours' | 'theirs', T>> {
  const results = await Promise.all(contenders.map(async (each) => [each, await run(await race(each), each)]))
  return Object.fromEntries(results) as Record<'ours' | 'theirs', T>
}

test('50 parallel requests change 50 fields: 50 survive', async () => {
  const survivors = await both(async ({ run, session }) => {
    await run(range(50).map((i) => `/field/f${i}`))
    return Object.keys(await session()).filter((key) => /^f\d/.test(key)).length
  })
  told('fields of 50 that survive', survivors)
  expect(survivors.ours).toBe(50)
  expect(survivors.theirs).toBeLessThan(25)
})

test('50 parallel requests change 50 places in one field: 50 survive', async () => {
  const survivors = await both(async ({ run, session }) => {
    await run(range(50).map((i) => `/nested/f${i}`))
    return Object.keys((await session()).nested as object).length
  })
  told('places of 50 in one field that survive', survivors)
  expect(survivors.ours).toBe(50)
  expect(survivors.theirs).toBeLessThan(25)
})

test('50 parallel update(n++) count exactly 50, 50 parallel incr() as well', async () => {
  const counts = await both(async ({ run, session }) => {
    await run(range(50).map(() => '/count'))
    return (await session()).n
  })
  told('n after 50 times n++', counts)
  expect(counts.ours).toBe(50)
  expect(counts.theirs).toBeLessThan(25)
  const { run, session } = await race('ours')
  const seen = await run(range(50).map(() => '/incr'))
  expect(seen.map(Number).sort((a, b) => a - b)).toEqual(range(50).map((i) => i + 1))
  expect((await session()).nested).toEqual({ hits: 50 })
})

test('logout against 100 requests in flight, read-only and changing: no key is left', async () => {
  const left = await both(async ({ run, urls, jar, storedKeys }) => {
    await run(
      range(100).map((i) => `/late/${i % 2 < 1 ? 'read' : 'change'}`),
      () => get(`${urls[1]}/logout`, { headers: { cookie: jar.header() ?? '' } }),
    )
    return (await storedKeys()).length
  })
  told('keys left after a logout', left)
  expect(left).toEqual({ ours: 0, theirs: 1 })
})

test('commands a client sends for a request, as MONITOR sees them: 1 to read, 2 to change', async () => {
  const counted: Record<string, Record<string, string>> = {}
  for (const contender of contenders) {
    const redis = await startRedis()
    const namespace = testNamespace()
    const env = { CONTENDER: contender, REDIS: redis.url, NAMESPACE: namespace }
    const app = runNode(fixture, { env, ipc: true })
    const url = `http://127.0.0.1:${(await app.waitFor(/port (\d+)/, 30_000))[1]}`
    const jar = new CookieJar()
    await get(`${url}/start`, { jar })
    const headers = { cookie: jar.header() ?? '' }
    const looker = redis.client()
    await looker.ping() // it says hello before it is counted
    const { sent } = await monitor(redis.port)
    counted[contender] = {}
    for (const path of ['/', '/views']) {
      const from = sent.length
      for (let i = 0; i < 50; i++) expect((await get(url + path, { headers })).status).toBe(200)
      await looker.echo(`end of ${path}`)
      await until(() => sent.at(-1)?.line.includes(`end of ${path}`), { what: 'MONITOR to be through' })
      const names = sent.slice(from, -1).map(({ name }) => name)
      const each = [...new Set(names)].map((name) => [
        name,
        names.filter((other) => other === name).length / 50,
      ])
      counted[contender][path] = each.flat().join(' ')
    }
  }
  told('sent for a request that reads', { ours: counted.ours?.['/'], theirs: counted.theirs?.['/'] })
  told('sent for a request that changes', {
    ours: counted.ours?.['/views'],
    theirs: counted.theirs?.['/views'],
  })
  expect(counted.ours).toEqual({ '/': 'hgetall 1', '/views': 'hgetall 1 evalsha 1' })
})
