import { httpSubject } from '../harness/http-subject.mjs'
import { ratio } from '../harness/verdict.mjs'
import { CLIENTS, KEYS, SESSIONS } from '../servers/request/workload.mjs'

const path = (n, route) => `/${route}/${n % KEYS}`
const address = (n) => `203.0.113.${n % CLIENTS}`

/** One cookie per session, then as many requests as there are keys: each session, address and key in turn. */
async function workload(url, get, { route = 'products', clients = CLIENTS } = {}) {
  const cookies = []
  for (let i = 0; i < SESSIONS; i++) {
    const reply = await get(url + path(i, 'products'), { headers: { 'X-Forwarded-For': address(i) } })
    cookies.push(reply.headers['set-cookie']?.[0].split(';')[0] ?? 'sid=none')
  }
  return Array.from({ length: KEYS * 2 }, (_, i) => ({
    path: path(i * 7, route),
    headers: { 'X-Forwarded-For': address(i % clients), Cookie: cookies[(i * 3) % SESSIONS] },
  }))
}

/** The session counts, and the product is the right one, whichever worker answers. */
async function check(url, get) {
  const headers = { 'X-Forwarded-For': '203.0.113.250' }
  const first = await get(`${url}/products/7`, { headers })
  headers.Cookie = first.headers['set-cookie']?.[0].split(';')[0]
  if (!headers.Cookie) throw new Error(`no session cookie: ${first.status} ${first.body}`)
  for (let views = 2; views < 8; views++) {
    const reply = JSON.parse((await get(`${url}/products/7`, { headers })).body)
    if (reply.views !== views || reply.product.name !== 'Product 7')
      throw new Error(`expected view ${views} of product 7, got ${JSON.stringify(reply)}`)
  }
}

/** One side of the comparison, with its launcher. */
export const contenderWith = (app, { workers = 2, redis = 'tcp', route, clients, env } = {}) =>
  httpSubject({
    launcher: app === 'as-one' ? 'as-one' : 'node:cluster',
    app: `request/${app}.mjs`,
    redis,
    workers,
    env,
    workload: (url, get) => workload(url, get, { route, clients }),
    check: app === 'bare' ? undefined : check,
  })

const contenders = (redis) => ({
  bare: contenderWith('bare', { redis: false }),
  'as-one': contenderWith('as-one', { redis }),
  'by hand': contenderWith('by-hand', { redis }),
  floor: contenderWith('floor', { redis }),
})

const few = { route: 'seen', clients: 4 }
const onlyRead = {
  bare: contenderWith('bare', { ...few, redis: false }),
  'as-one': contenderWith('as-one', { ...few, env: { BENCH_LEASE: '1' } }),
  'by hand': contenderWith('by-hand', few),
}

const added = (round, who) => round[who].appUs - round.bare.appUs

export default {
  title: 'Whole request',
  about: `Express 5, 2 workers, 64 keep-alive connections, 200 sessions, 200 client addresses, 500 cached keys. Each
request changes its session, is counted against its address and reads a cached product. \`by hand\` is express-session,
connect-redis, rate-limiter-flexible and bentocache on node:cluster; \`floor\` is the least that can do it, with fewer
guarantees than either; \`bare\` is Express with none of it.`,
  needs: { 'by hand': ['bentocache'] },
  libraries: [
    'express',
    'express-session',
    'connect-redis',
    'rate-limiter-flexible',
    'bentocache',
    'ioredis',
  ],
  // Shorter rounds than elsewhere and more of them: Redis' share changes from second to second with what the host does.
  plan: { rounds: 12, sampleMs: 500, mostSittings: 6 },
  profiled: ['as-one', 'floor', 'by hand'],
  plot: { metric: 'appUs', title: 'App CPU per request', unit: 'µs' },
  cases: [
    { name: 'TCP', contenders: contenders('tcp') },
    { name: 'unix socket', contenders: contenders('unix'), plan: { sittings: 1 } },
    {
      name: 'only read, leases, 4 addresses',
      contenders: onlyRead,
      smoked: true,
      plan: { sittings: 1, rounds: 3 },
    },
  ],
  columns: ['rate', 'appUs', 'redisUs', 'sent', 'bytes', 'p50Ms', 'p99Ms', 'workersMb', 'primaryMb'],
  added: 'bare',
  bars: [
    {
      case: 'TCP',
      what: 'requests/s, against by hand',
      value: ratio('rate', 'as-one', 'by hand'),
      min: 1.6,
      goal: 2,
    },
    {
      case: 'TCP',
      what: 'added app CPU, of theirs',
      value: (round) => added(round, 'as-one') / added(round, 'by hand'),
      max: 0.45,
    },
    { case: 'TCP', what: 'Redis CPU, of theirs', value: ratio('redisUs', 'as-one', 'by hand'), max: 0.6 },
    {
      case: 'TCP',
      what: 'commands sent per request',
      fact: (facts) => Math.round(facts['as-one'].sent * 100) / 100,
      max: 3,
    },
    {
      case: 'only read, leases, 4 addresses',
      what: 'commands sent per request',
      fact: (facts) => Math.round(facts['as-one'].sent * 100) / 100,
      max: 1.1,
    },
  ],
}
