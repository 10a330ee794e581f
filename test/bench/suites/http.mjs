import { httpSubject } from '../harness/http-subject.mjs'
import { ratio } from '../harness/verdict.mjs'

const kept = async () => [{ path: '/' }]
const fresh = async () => [{ path: '/', headers: { Connection: 'close' } }]

async function check(url, get) {
  const { status, body } = await get(url)
  if (status !== 200 || JSON.parse(body).hello !== 'world')
    throw new Error(`${url} answered ${status}: ${body}`)
}

/** Ours has its hub on a Redis; the others need none. */
const contender = (launcher, workload) =>
  httpSubject({
    launcher,
    app: 'http/hello.mjs',
    redis: launcher.startsWith('as-one') && 'tcp',
    workload,
    check,
  })

const contenders = (workload) => ({
  'as-one': contender('as-one', workload),
  'node:cluster': contender('node:cluster', workload),
  'as-one, os': contender('as-one, os', workload),
  'node:cluster, os': contender('node:cluster, os', workload),
  pm2: contender('pm2', workload),
})

/** `balance: 'os'` is the shared handle of node:cluster's SCHED_NONE. */
export default {
  title: 'Runner',
  about: `A node:http app that answers 17 bytes, 2 workers, 64 connections. \`os\` is the shared socket
(\`balance: 'os'\`, SCHED_NONE), the others hand connections out in turn.`,
  needs: { pm2: ['pm2'] },
  libraries: ['pm2'],
  plan: { sittings: 3, rounds: 6, sampleMs: 1_000, warmUpMs: 2_000 },
  plot: { metric: 'rate', title: 'Requests per second', unit: '/s' },
  columns: ['rate', 'appUs', 'primaryUs', 'p50Ms', 'p99Ms', 'workersMb', 'idlePrimaryMb', 'readyMs'],
  cases: [
    { name: 'keep-alive', contenders: contenders(kept) },
    { name: 'fresh connections', contenders: contenders(fresh) },
  ],
  bars: [
    {
      case: 'keep-alive',
      what: 'keep-alive requests/s, against bare node:cluster',
      value: ratio('rate', 'as-one', 'node:cluster'),
      min: 0.97,
    },
    {
      case: 'fresh connections',
      what: 'fresh connections/s, against bare node:cluster',
      value: ratio('rate', 'as-one', 'node:cluster'),
      min: 0.97,
    },
    {
      case: 'keep-alive',
      what: 'MB of the idle primary over the bare one',
      fact: (facts) => facts['as-one'].idlePrimaryMb - facts['node:cluster'].idlePrimaryMb,
      max: 30,
    },
  ],
}
