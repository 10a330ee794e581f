import { httpSubject } from '../harness/http-subject.mjs'
import { ratio } from '../harness/verdict.mjs'

const SESSIONS = 200

const workload = (path) => async (url, get) => {
  const requests = []
  for (let i = 0; i < SESSIONS; i++) {
    const { headers } = await get(`${url}/changed`)
    const Cookie = headers['set-cookie']?.[0].split(';')[0] ?? 'sid=none'
    requests.push({ path, headers: { Cookie } })
  }
  return requests
}

async function check(url, get) {
  const { headers } = await get(`${url}/changed`)
  const Cookie = headers['set-cookie']?.[0].split(';')[0]
  for (let views = 2; views < 6; views++) {
    for (const path of ['changed', 'read']) {
      const { body } = await get(`${url}/${path}`, { headers: { Cookie } })
      if (JSON.parse(body).views !== views) throw new Error(`/${path}: expected view ${views}, got ${body}`)
    }
  }
}

const contender = (launcher, app, path, redis = 'tcp', checked = check) =>
  httpSubject({
    launcher,
    app: `session/${app}.mjs`,
    redis,
    workload: workload(path),
    check: checked,
    workers: 1,
  })

const contenders = (path) => ({
  bare: contender('node:cluster', 'bare', path, false, null),
  'as-one': contender('as-one', 'as-one', path),
  'express-session': contender('node:cluster', 'express-session', path),
  MemoryStore: contender('node:cluster', 'memory', path, false),
})

const added = (round, who) => round[who].appUs - round.bare.appUs

export default {
  title: 'Sessions',
  about: `Express 5, one worker, 64 keep-alive connections, 200 sessions, Redis over TCP. \`express-session\` is
express-session with connect-redis; \`MemoryStore\` is express-session with its own store, which no other process can
see; \`bare\` is Express without sessions.`,
  libraries: ['express', 'express-session', 'connect-redis', 'ioredis'],
  plan: { sittings: 2 },
  profiled: ['as-one', 'express-session'],
  plot: { metric: 'appUs', title: 'App CPU per request', unit: 'µs' },
  columns: ['rate', 'appUs', 'redisUs', 'sent', 'bytes', 'p50Ms', 'p99Ms', 'workersMb'],
  added: 'bare',
  cases: [
    { name: 'changed', contenders: contenders('/changed') },
    { name: 'read', contenders: contenders('/read'), smoked: true },
  ],
  bars: [
    {
      case: 'changed',
      what: 'requests/s, against express-session',
      value: ratio('rate', 'as-one', 'express-session'),
      min: 1,
    },
    {
      case: 'changed',
      what: 'added app CPU, of theirs',
      value: (round) => added(round, 'as-one') / added(round, 'express-session'),
      max: 0.5,
    },
    { case: 'changed', what: 'commands sent per request', fact: (facts) => facts['as-one'].sent, max: 2.01 },
    {
      case: 'read',
      what: 'requests/s, against express-session',
      value: ratio('rate', 'as-one', 'express-session'),
      min: 1,
    },
    { case: 'read', what: 'commands sent per request', fact: (facts) => facts['as-one'].sent, max: 1.01 },
  ],
}
