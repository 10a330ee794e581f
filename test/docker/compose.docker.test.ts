import { setTimeout as sleep } from 'node:timers/promises'
import { beforeAll, expect, test } from 'vitest'
import {
  CookieJar,
  get,
  type LoadResult,
  type Reply,
  request,
  type SteadyLoad,
  steadyLoad,
} from '../helpers/http.ts'
import { long } from '../helpers/long.ts'
import { until } from '../helpers/until.ts'
import { type EventStream, openEventStream } from './event-stream.ts'
import { type Stack, startStack } from './stack.ts'

interface WorkerInfo {
  id: string
  index: number
  pid: number
  machine: string
}

interface Status {
  worker: WorkerInfo
  redis: 'ok' | 'away' | 'connecting'
  workers: WorkerInfo[]
}

const machines = ['machine-a', 'machine-b']
const namesOf = (workers: Iterable<WorkerInfo>): string[] =>
  [...workers].map(({ machine, index }) => `${machine}/${index}`).sort()
const everybody = ['machine-a/0', 'machine-a/1', 'machine-b/0', 'machine-b/1']

let stack: Stack
const path = (to: string): string => `${stack.url}${to}`
const status = async (): Promise<Status> => (await get(path('/api/status'))).json<Status>()

beforeAll(async () => {
  stack = await startStack()
}, 400_000)

/** Until all four have answered and each of them knows of the four. Returns them. */
function allFour(): Promise<WorkerInfo[]> {
  const answered = new Map<string, Status>()
  return until(
    async () => {
      const answer = await status()
      answered.set(answer.worker.id, answer)
      const current = answer.workers.map(({ id }) => answered.get(id))
      const agreed = current.every((each) => each && namesOf(each.workers).join() === everybody.join())
      return agreed && namesOf(answer.workers).join() === everybody.join() && answer.workers
    },
    { what: 'an answer from each worker that names all four', deadline: 30_000 },
  )
}

test('the workers of both machines answer through nginx, and none runs as root', async () => {
  expect(namesOf(await allFour())).toEqual(everybody)
  expect((await stack.compose('exec', 'app-a', 'id', '-un')).trim()).toBe('node')
})

test('one session over both machines: the counter ends at exactly 200', async () => {
  const jar = new CookieJar()
  const counts: number[] = []
  const answered = new Set<string>()
  for (let sent = 0; sent < 200; sent++) {
    const { worker, count } = (await get(path('/api/session'), { jar })).json<{
      worker: WorkerInfo
      count: number
    }>()
    counts.push(count)
    answered.add(worker.machine)
  }
  expect(counts).toEqual(Array.from({ length: 200 }, (_, index) => index + 1))
  expect([...answered].sort()).toEqual(machines)
})

test('one budget for each visitor over both machines, and nobody talks himself into another one', async () => {
  const spend = (headers: Record<string, string> = {}) =>
    request(path('/api/budget'), { method: 'POST', headers })
  const replies: Reply[] = []
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      for (let sent = 0; sent < 50; sent++) replies.push(await spend())
    }),
  )
  const statuses = replies.map(({ status }) => status)
  expect(statuses.filter((each) => each === 200)).toHaveLength(50)
  expect(statuses.filter((each) => each === 429)).toHaveLength(150)

  const forged = await spend({ 'x-forwarded-for': '203.0.113.7', forwarded: 'for=203.0.113.7' })
  expect(forged.status).toBe(429)

  const script =
    "fetch('http://nginx/api/budget', { method: 'POST' }).then(async (r) => console.log(r.status, await r.text()))"
  expect(await stack.compose('exec', 'app-b', 'node', '-e', script)).toMatch(/^200 .*"remaining":49/)
})

test('a broadcast reaches each worker of both machines once, and events are not held back by nginx', async () => {
  const stream = await openEventStream(path('/api/events'))
  const heardBy = (id: string): string[] =>
    namesOf(
      stream
        .all<{ id: string; worker: WorkerInfo }>('heard')
        .filter((heard) => heard.id === id)
        .map(({ worker }) => worker),
    )
  const ids: string[] = []
  for (let sent = 0; sent < 10; sent++) {
    const { id } = (await request(path('/api/broadcast'), { body: { text: `${sent}` } })).json<{
      id: string
    }>()
    ids.push(id)
    await until(() => heardBy(id).length >= 4, { what: 'four workers to have heard it' })
  }
  // Messages of one publisher arrive in order: a second copy of an earlier one would have come by now.
  for (const id of ids) expect(heardBy(id)).toEqual(everybody)
})

test('what one worker writes into the cache, every worker reads at the latest a second later', async () => {
  const readAll = async (): Promise<Set<string>> => {
    const seen = new Map<string, string>()
    await until(
      async () => {
        const { worker, value } = (await get(path('/api/value'))).json<{
          worker: WorkerInfo
          value: { text: string }
        }>()
        seen.set(namesOf([worker]).join(), value.text)
        return seen.size === 4
      },
      { what: 'all four to have read the value' },
    )
    return new Set(seen.values())
  }
  for (const text of ['one', 'two', 'three']) {
    await readAll() // each worker has its own copy now
    await request(path('/api/value'), { body: { text } })
    await sleep(1_000) // maxStaleness
    expect(await readAll()).toEqual(new Set([text]))
  }
})

/** An event stream that a worker of that machine serves. */
async function openStreamFrom(machine: string): Promise<EventStream> {
  return until(
    async () => {
      const stream = await openEventStream(path('/api/events'))
      return stream.all<Status>('hello')[0]?.worker.machine === machine && stream
    },
    { what: `an event stream from ${machine}` },
  )
}

/** GETs and POSTs, over kept-alive and over fresh connections, two clients each. */
function mixedLoad() {
  const send = (method: 'GET' | 'POST', keepAlive: boolean): SteadyLoad => {
    const url = path(method === 'GET' ? '/api/status' : '/api/broadcast')
    return steadyLoad({
      url,
      keepAlive,
      clients: 2,
      send: ({ agent }) =>
        request(url, {
          ...(method === 'POST' && { body: { text: 'load' } }),
          ...(agent && { agent }),
          timeout: 5_000,
        }).finally(() => sleep(5)),
    })
  }
  const loads = {
    'GET, kept alive': send('GET', true),
    'GET, fresh': send('GET', false),
    'POST, kept alive': send('POST', true),
    'POST, fresh': send('POST', false),
  }
  return {
    async stop(): Promise<Record<string, LoadResult>> {
      const stopping = Object.entries(loads).map(async ([name, load]) => [name, await load.stop()] as const)
      return Object.fromEntries(await Promise.all(stopping))
    },
  }
}

/** Its errors, and what it answered itself. */
async function complaintsOfNginx(): Promise<string> {
  const lines = (await stack.compose('logs', '--no-color', '--no-log-prefix', '--timestamps', 'nginx')).split(
    '\n',
  )
  return lines.filter((line) => /\[error\]|" (502|504) /.test(line)).join('\n')
}

test('stopping a machine under load loses no request, and starting it brings it back', async () => {
  const rounds = long(2, 20)
  const load = mixedLoad()
  let stopMs = 0
  for (let round = 0; round < rounds; round++) {
    const service = round % 2 ? 'app-b' : 'app-a'
    const gone = service.replace('app', 'machine')
    const stream = await openStreamFrom(gone)

    const begun = performance.now()
    await stack.compose('stop', service)
    stopMs = Math.max(stopMs, performance.now() - begun)
    expect(await until(() => stream.ended, { what: 'the event stream of a stopped machine to end' })).toBe(
      'whole',
    )
    for (let sent = 0; sent < 20; sent++) expect((await status()).worker.machine).not.toBe(gone)

    await stack.compose('up', '--detach', '--no-build', '--wait', service)
    await allFour()
  }
  const results = await load.stop()
  console.info(`[docker] ${rounds} machines stopped, each in at most ${Math.round(stopMs)} ms`, results)
  if (Object.values(results).some(({ failed }) => failed > 0)) console.info(await complaintsOfNginx())
  for (const [name, { ok, failed, reasons }] of Object.entries(results)) {
    expect({ failed, reasons }, name).toEqual({ failed: 0, reasons: {} })
    expect(ok, name).toBeGreaterThan(100)
  }
}, 600_000)

test('Redis is killed and comes back: sessions are kept, no worker dies, the page is there all the time', async () => {
  const before = (await allFour()).map(({ id }) => id).sort()
  const jar = new CookieJar()
  const count = async (): Promise<number> =>
    (await get(path('/api/session'), { jar })).json<{ count: number }>().count
  for (let sent = 1; sent <= 5; sent++) expect(await count()).toBe(sent)
  // A written byte is on the disk within a second (appendfsync everysec): here we wait until Redis says it is.
  await stack.compose('exec', 'redis', 'redis-cli', 'WAITAOF', '1', '0', '5000')

  const page = steadyLoad({
    url: path('/'),
    clients: 2,
    timeout: 3_000,
    send: () => get(path('/')).finally(() => sleep(5)),
  })
  await stack.compose('kill', 'redis')
  await until(async () => (await status()).redis === 'away', {
    what: 'a worker to say that Redis is away',
    deadline: 30_000,
  })
  for (let sent = 0; sent < 5; sent++) {
    const begun = performance.now()
    // From the app, which says what is wrong; not nginx's own page.
    expect((await get(path('/api/session'), { jar })).json()).toMatchObject({
      code: expect.stringMatching(/^ERR_AS_ONE_/),
    })
    expect(performance.now() - begun).toBeLessThan(2_000)
  }

  await stack.compose('start', 'redis')
  await until(async () => (await get(path('/api/session'), { jar })).status === 200, {
    what: 'sessions to work again',
    deadline: 30_000,
  })
  expect(await count()).toBe(7)
  expect((await allFour()).map(({ id }) => id).sort()).toEqual(before)
  const stream = await openEventStream(path('/api/events'))
  await until(
    async () => {
      const { id } = (await request(path('/api/broadcast'), { body: { text: 'back' } })).json<{
        id: string
      }>()
      await sleep(200)
      const heard = stream.all<{ id: string; worker: WorkerInfo }>('heard').filter((each) => each.id === id)
      return namesOf(heard.map(({ worker }) => worker)).join() === everybody.join()
    },
    { what: 'a broadcast to reach all four again', deadline: 30_000 },
  )
  const { ok, ...failures } = await page.stop()
  expect(failures).toEqual({ failed: 0, reasons: {} })
  expect(ok).toBeGreaterThan(100)
}, 180_000)
