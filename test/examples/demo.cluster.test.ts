import { readdirSync } from 'node:fs'
import http from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { beforeAll, describe, expect, test } from 'vitest'
import { track } from '../helpers/cleanup.ts'
import { isAlive } from '../helpers/fork.ts'
import { CookieJar, get, request, steadyLoad } from '../helpers/http.ts'
import { pidsOf, sendSignal } from '../helpers/processes.ts'
import { sharedRedisClient, startRedis } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { type Example, post, startExample } from './example.ts'

interface Worker {
  id: string
  index: number
  pid: number
  machine: string
}
interface Answer {
  worker: Worker
}
interface Status extends Answer {
  redis: 'connecting' | 'ok' | 'away'
  workers: Worker[]
}
interface Value extends Answer {
  value: { id: string; text: string; how: string; runs: number; worker: Worker }
}

const statusOf = async ({ url }: Example): Promise<Status> => (await get(`${url}/api/status`)).json<Status>()
const readValue = async ({ url }: Example): Promise<Value> => (await get(`${url}/api/value`)).json<Value>()
const countOf = async ({ url }: Example, jar: CookieJar): Promise<number> =>
  (await get(`${url}/api/session`, { jar })).json<{ count: number }>().count

const WORKERS = 3

/** Each worker has its bus and knows of the others. */
async function startDemo(options: Parameters<typeof startExample>[1] = {}): Promise<Example> {
  const demo = await startExample('demo/server.js', { workers: WORKERS, ...options })
  const ready = new Set<number>()
  await until(
    async () => {
      const { worker, redis, workers } = await statusOf(demo)
      if (redis === 'ok' && workers.length === WORKERS) ready.add(worker.pid)
      return ready.size === WORKERS
    },
    { what: 'the bus to be up', deadline: 30_000 },
  )
  return demo
}

/** For whoever kills it next: written to its append-only file, which a slow disk may delay. */
async function whenOnDisk(redis: Redis): Promise<void> {
  await until(async () => /^aof_buffer_length:0\r?$/m.test(await redis.info('persistence')), {
    what: 'its last writes to be in its file',
  })
}

// One for all that a kill of its Redis does not end; the first to read the value is the test of the loader.
let demo: Example
beforeAll(async () => {
  demo = await startDemo({ env: { DEMO_PER: '1h' } })
})

describe('what the page promises', () => {
  test('it says where it is, and serves the page without anything foreign', async () => {
    const { url, line } = demo
    expect(line).toMatch(/^http:\/\/localhost:\d+ · 3 workers · Redis: /)
    const page = await get(url)
    expect(page.status).toBe(200)
    expect(page.headers['content-security-policy']).toContain("default-src 'none'")
    expect(page.body).not.toMatch(/https?:\/\/|<script>|\son\w+=|style=/)
  })

  test('200 requests of one cookie jar: at least 2 pids, the counter at exactly 200', async () => {
    const { url } = demo
    const jar = new CookieJar()
    const pids = new Set<number>()
    let last = 0
    for (let i = 0; i < 200; i++) {
      const { worker, count } = (await get(`${url}/api/session`, { jar })).json<Answer & { count: number }>()
      expect(count).toBe(last + 1)
      last = count
      pids.add(worker.pid)
    }
    expect(last).toBe(200)
    expect(pids.size).toBeGreaterThanOrEqual(2)
  })

  test('of 200 requests against a limit of 50 per hour exactly 50 are admitted', async () => {
    const { url } = demo
    const replies = []
    for (let burst = 0; burst < 20; burst++) {
      replies.push(...(await Promise.all(Array.from({ length: 10 }, () => post(`${url}/api/budget`)))))
    }
    const admitted = replies.filter((reply) => reply.status === 200)
    // A Redis that has no CPU for 90 ms is not waited for: what a worker admits alone then comes on top.
    const alone = admitted.filter((reply) => reply.json<{ source: string }>().source === 'local')
    expect(admitted.length - alone.length).toBeLessThanOrEqual(50)
    if (alone.length === 0) expect(admitted).toHaveLength(50)
    expect(replies.filter((reply) => reply.status === 429)).toHaveLength(200 - admitted.length)
    expect(new Set(admitted.map((reply) => reply.json<Answer>().worker.pid)).size).toBeGreaterThanOrEqual(2)
    expect((await get(`${url}/api/budget`)).json()).toMatchObject({ limit: 50, remaining: 0 })
  })

  test('the loader runs once for all workers, and nobody reads the old value 1 s after a write', async () => {
    const first = await Promise.all(Array.from({ length: 30 }, () => readValue(demo)))
    expect(new Set(first.map(({ value }) => value.id)).size).toBe(1)
    expect(new Set(first.map(({ worker }) => worker.pid)).size).toBe(3)
    expect(first[0]?.value.runs).toBe(1)

    for (const text of ['one', 'two', 'three']) {
      const written = (await post(`${demo.url}/api/value`, { text })).json<Value>()
      await sleep(1_000)
      await expectAll(demo, ({ value }) => value.id === written.value.id)
    }

    await request(`${demo.url}/api/value`, { method: 'DELETE' })
    await sleep(1_000)
    await expectAll(demo, ({ value }) => value.how === 'loaded' && value.runs === 2)
  })

  test('a DEL by somebody else is seen too', async () => {
    const before = await readValue(demo)
    const foreign = sharedRedisClient()
    const keys = await foreign.keys(`${demo.namespace}:c:*value*`)
    expect(keys).toHaveLength(1)
    await foreign.del(keys)
    await sleep(1_000)
    await expectAll(demo, ({ value }) => value.id !== before.value.id && value.runs === before.value.runs + 1)
  })

  test('one broadcast reaches every worker once', async () => {
    const { workers } = await statusOf(demo)
    await using page = eventStream(demo)
    await until(() => page.events.some((event) => event.name === 'hello'), { what: 'the stream to begin' })
    const ids: string[] = []
    for (let i = 0; i < 10; i++)
      ids.push((await post(`${demo.url}/api/broadcast`, { text: `${i}` })).json<{ id: string }>().id)
    const heard = (id: string): number[] =>
      page.events
        .filter((event) => event.name === 'heard' && event.data.id === id)
        .map((event) => event.data.worker.pid)
    await until(() => ids.every((id) => heard(id).length >= workers.length), {
      what: 'every worker to have heard',
    })
    await sleep(200) // whatever comes twice comes now
    for (const id of ids) expect(heard(id).sort()).toEqual(workers.map(({ pid }) => pid).sort())
  })
})

describe('workers come and go', () => {
  test('kill: the worker that was named dies, its place is taken, no request on a used connection is lost', async () => {
    const before = (await statusOf(demo)).workers
    const victim = before[1] as Worker
    const jar = new CookieJar()
    await countOf(demo, jar)
    expect((await post(`${demo.url}/api/kill`, { id: victim.id })).status).toBe(200)
    await until(() => !isAlive(victim.pid), { what: 'the worker to be dead' })
    await until(
      async () => {
        const { workers } = await statusOf(demo)
        return (
          workers.length === 3 &&
          workers.some(({ index, pid }) => index === victim.index && pid !== victim.pid)
        )
      },
      { what: 'its place to be taken' },
    )
    expect(await countOf(demo, jar)).toBe(2)
  })

  test('reload all: other processes, no failed request, event streams end instead of breaking', async () => {
    const old = new Set((await statusOf(demo)).workers.map(({ pid }) => pid))
    await using page = eventStream(demo)
    await until(() => page.events.some((event) => event.name === 'hello'), { what: 'the stream to begin' })
    const load = steadyLoad({ url: `${demo.url}/api/value`, clients: 4 })
    expect((await post(`${demo.url}/api/reload`)).status).toBe(200)
    await until(async () => (await statusOf(demo)).workers.every(({ pid }) => !old.has(pid)), {
      what: 'all workers to be new',
      deadline: 40_000,
    })
    await until(() => page.ended, { what: 'the event stream to end' })
    expect(page.error).toBeUndefined()
    expect((await load.stop()).reasons).toEqual({})
  })

  test('a page of another site cannot press the buttons', async () => {
    const reply = await request(`${demo.url}/api/kill`, {
      body: {},
      headers: { 'sec-fetch-site': 'cross-site' },
    })
    expect(reply.status).toBe(403)
  })
})

describe('bad input', () => {
  test('a forged cookie is a new visitor; a 1 MB cookie is refused and harms nobody', async () => {
    const pids = (await statusOf(demo)).workers.map(({ pid }) => pid)
    const jar = new CookieJar()
    await countOf(demo, jar)
    const forged = new CookieJar()
    forged.set('sid', `${jar.get('sid')?.slice(0, -4)}AAAA`)
    expect(await countOf(demo, forged)).toBe(1)
    const huge = await request(`${demo.url}/api/session`, {
      headers: { cookie: `sid=${'a'.repeat(1 << 20)}` },
    }).then(
      (reply) => reply.status,
      (error: NodeJS.ErrnoException) => error.code, // refused before all of it was sent
    )
    expect([431, 'ECONNRESET', 'EPIPE']).toContain(huge)
    expect((await statusOf(demo)).workers.map(({ pid }) => pid)).toEqual(pids)
    expect(await countOf(demo, jar)).toBe(2)
  })
})

describe('Redis dies', () => {
  test('kill -9 of the managed redis-server under load: the session survives, no worker dies, it recovers', async () => {
    const demo = await startDemo({ redis: undefined })
    const { pid: primary } = demo.process
    const pids = pidsOf({ parent: primary })
    const jar = new CookieJar()
    for (let i = 0; i < 20; i++) await countOf(demo, jar)
    await whenOnDisk(managedRedis(demo))
    const load = steadyLoad({ url: `${demo.url}/api/session`, clients: 2 })
    const server = demo.process.tree().find((pid) => pidsOf(/redis-server|valkey-server/).includes(pid))
    expect(server).toBeDefined()
    sendSignal(server as number, 'SIGKILL')
    const count = await whenCountedOn(demo, jar, 20)
    expect(await countOf(demo, jar)).toBe(count + 1)
    await until(async () => (await statusOf(demo)).redis === 'ok', { what: 'the status to say so' })
    const { reasons } = await load.stop()
    expect(Object.keys(reasons).filter((reason) => reason !== 'status 503')).toEqual([])
    expect(
      pidsOf({ parent: primary })
        .filter((pid) => pids.includes(pid))
        .sort(),
    ).toEqual(pids.filter((pid) => pid !== server).sort())
  })

  test('while it is away the status says so, sessions answer 503 and cached reads go on', async () => {
    const redis = await startRedis({ persist: true })
    const demo = await startDemo({ redis: redis.url })
    const jar = new CookieJar()
    for (let i = 0; i < 5; i++) await countOf(demo, jar)
    await whenOnDisk(redis.client())
    await redis.kill()
    await until(async () => (await statusOf(demo)).redis === 'away', { what: 'the status to say so' })
    const away = await get(`${demo.url}/api/session`, { jar })
    expect(away.status).toBe(503)
    expect(away.json()).toMatchObject({ code: 'ERR_AS_ONE_REDIS_UNAVAILABLE' })
    expect((await get(`${demo.url}/api/value`)).status).toBe(200)
    expect((await get(`${demo.url}/api/budget`)).status).toBe(200)
    expect((await post(`${demo.url}/api/broadcast`)).status).toBe(200)
    await redis.restart()
    await until(async () => (await statusOf(demo)).redis === 'ok', {
      what: 'it to be back',
      deadline: 20_000,
    })
    await whenCountedOn(demo, jar, 5)
  })
})

/** A connection to the server that the demo has brought. */
function managedRedis({ process }: Example): Redis {
  const files = readdirSync(process.stateDir, { recursive: true, encoding: 'utf8' })
  const socket = files.find((file) => file.endsWith('.sock')) ?? 'missing'
  const client = new Redis({ path: join(process.stateDir, socket) })
  client.on('error', () => {}) // its server is going to be killed
  track({ [Symbol.asyncDispose]: async () => client.disconnect() })
  return client
}

/** Until the session answers again, with the counter where it was: what was answered with 503 may have been counted. */
async function whenCountedOn(demo: Example, jar: CookieJar, before: number): Promise<number> {
  let asked = 0
  const count = await until(
    async () => {
      asked += 1
      const reply = await get(`${demo.url}/api/session`, { jar })
      return reply.status === 200 && reply.json<{ count: number }>().count
    },
    { what: 'the session to go on', deadline: 20_000 },
  )
  expect(count).toBeGreaterThan(before)
  expect(count).toBeLessThanOrEqual(before + asked)
  return count
}

/** On each of the workers, and often. */
async function expectAll(demo: Example, holds: (answer: Value) => boolean): Promise<void> {
  const { workers } = await statusOf(demo)
  const answers = await Promise.all(Array.from({ length: 8 * workers.length }, () => readValue(demo)))
  expect(new Set(answers.map(({ worker }) => worker.pid)).size).toBe(workers.length)
  expect(answers.filter((answer) => !holds(answer)).map(({ value }) => value)).toEqual([])
}

interface EventStream extends AsyncDisposable {
  readonly events: { name: string; data: { id: string; worker: Worker } }[]
  readonly ended: boolean
  readonly error: Error | undefined
}

/** One connection of a page to `/api/events`. */
function eventStream({ url }: Example): EventStream {
  const events: EventStream['events'] = []
  let ended = false
  let error: Error | undefined
  let text = ''
  const sent = http.get(`${url}/api/events`, { agent: false }, (res) => {
    res.setEncoding('utf8')
    res.on('data', (chunk: string) => {
      text += chunk
      const blocks = text.split('\n\n')
      text = blocks.pop() ?? ''
      for (const block of blocks) {
        const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? []
        if (name && data) events.push({ name, data: JSON.parse(data) })
      }
    })
    res.once('end', () => {
      ended = true
    })
    res.once('error', (reason) => {
      error = reason
    })
  })
  sent.on('error', () => {}) // told by the response
  return {
    events,
    get ended() {
      return ended
    },
    get error() {
      return error
    },
    [Symbol.asyncDispose]: async () => void sent.destroy(),
  }
}
