import { contenderWith } from './request.mjs'

const WORKERS = [1, 2, 4, 8]
const contenders = Object.fromEntries([
  ...WORKERS.map((workers) => [`as-one x ${workers}`, contenderWith('as-one', { workers })]),
  ...[1, 8].map((workers) => [`bare x ${workers}`, contenderWith('bare', { workers, redis: false })]),
])

export default {
  title: 'More workers',
  about: `The whole request on 1 to 8 workers. What a request costs should not grow with the number of workers; past
the number of cores it grows for anybody, \`bare\` (Express alone) shows by how much.`,
  smoked: ['as-one x 1'],
  libraries: ['express', 'ioredis'],
  plan: { sittings: 1, mostSittings: 2, rounds: 4, warmUpMs: 8_000 },
  plot: { metric: 'appUs', title: 'App CPU per request', unit: 'µs' },
  columns: ['rate', 'appUs', 'primaryUs', 'redisUs', 'sent', 'p50Ms', 'p99Ms', 'workersMb', 'primaryMb'],
  cases: [{ name: 'workers', contenders }],
  bars: [
    {
      case: 'workers',
      what: 'app CPU per request with 8 workers, of that with 1',
      value: (round) => round['as-one x 8'].appUs / round['as-one x 1'].appUs,
      max: 1.25,
    },
  ],
}
