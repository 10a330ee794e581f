import { contenderWith } from './request.mjs'

const WORKERS = [1, 2, 4, 8]
const contenders = Object.fromEntries([
  ...WORKERS.map((workers) => [`as-one x ${workers}`, contenderWith('as-one', { workers })]),
  ...[1, 8].map((workers) => [`by hand x ${workers}`, contenderWith('by-hand', { workers })]),
  ...[1, 8].map((workers) => [`bare x ${workers}`, contenderWith('bare', { workers, redis: false })]),
])

export default {
  title: 'More workers',
  about: `The whole request on 1 to 8 workers. What a request costs should not grow with the number of workers. Past the
number of cores it grows for anybody: a worker is woken for one or two requests at a time and shares less with its
neighbours; \`by hand\` and \`bare\` (Express alone) show by how much.`,
  smoked: ['as-one x 1'],
  libraries: ['express', 'ioredis'],
  // V8 throws away what has not run for some seconds, so each is loaded anew before each of its turns.
  plan: { sittings: 1, mostSittings: 2, rounds: 4, warmUpMs: 6_000, runUpMs: 2_000 },
  plot: { metric: 'appUs', title: 'App CPU per request', unit: 'µs' },
  columns: ['rate', 'appUs', 'primaryUs', 'redisUs', 'sent', 'p50Ms', 'p99Ms', 'workersMb', 'primaryMb'],
  cases: [{ name: 'workers', contenders }],
  bars: [
    ...[2, 4, 8].map((workers) => ({
      case: 'workers',
      what: `app CPU per request with ${workers} workers, of that with 1`,
      value: (round) => round[`as-one x ${workers}`].appUs / round['as-one x 1'].appUs,
      max: 1.25,
    })),
    {
      case: 'workers',
      what: 'app CPU per request with 8 workers, of 8 by hand',
      value: (round) => round['as-one x 8'].appUs / round['by hand x 8'].appUs,
      max: 1,
    },
  ],
}
