import { loopSubject } from '../harness/loop-subject.mjs'
import { ratio } from '../harness/verdict.mjs'

const contenders = (keys) => ({
  'as-one': loopSubject({ module: 'limiter-as-one.mjs', options: { keys } }),
  'as-one, gcra': loopSubject({ module: 'limiter-as-one.mjs', options: { keys, algorithm: 'gcra' } }),
  'as-one, fixed window': loopSubject({
    module: 'limiter-as-one.mjs',
    options: { keys, algorithm: 'fixed-window' },
  }),
  RateLimiterRedis: loopSubject({ module: 'limiter-flexible.mjs', options: { keys } }),
  'rate-limit-redis': loopSubject({ module: 'limiter-express.mjs', options: { keys } }),
})

/** So high that it is never reached, at whatever rate. */
const HOT_LIMIT = 1_000_000_000
const hot = (module, options) =>
  loopSubject({
    module: 'four-workers.mjs',
    options: { module, keys: 1, limit: HOT_LIMIT, ...options },
    counted: 100_000,
  })

export default {
  title: 'Rate limits',
  about: `One process, 64 decisions in flight, the limit never reached. \`as-one\` is the strict sliding window;
RateLimiterRedis (rate-limiter-flexible) and rate-limit-redis (the store of express-rate-limit) are fixed windows, which
admit twice the limit across an edge. The hot key is wanted by four processes; their CPU is not in \`appUs\`.`,
  needs: { 'rate-limit-redis': ['rate-limit-redis'] },
  libraries: ['rate-limiter-flexible', 'rate-limit-redis', 'ioredis'],
  plan: { sampleMs: 500, warmUpMs: 1_000 },
  plot: { metric: 'appUs', title: 'CPU per decision', unit: 'µs' },
  columns: ['rate', 'appUs', 'redisUs', 'sent', 'bytes'],
  cases: [
    { name: '200 keys', contenders: contenders(200) },
    {
      name: 'one hot key, four workers',
      contenders: {
        'as-one, leases': hot('limiter-as-one.mjs', { lease: true }),
        RateLimiterRedis: hot('limiter-flexible.mjs'),
      },
    },
    {
      name: 'three limits at once',
      contenders: {
        'as-one': loopSubject({ module: 'limiter-three-as-one.mjs', options: { keys: 200 } }),
        RateLimiterRedis: loopSubject({ module: 'limiter-three-flexible.mjs', options: { keys: 200 } }),
      },
    },
  ],
  bars: [
    {
      case: '200 keys',
      what: 'decisions/s, against RateLimiterRedis',
      value: ratio('rate', 'as-one', 'RateLimiterRedis'),
      min: 0.85,
    },
    {
      case: 'one hot key, four workers',
      what: 'decisions/s with leases, against RateLimiterRedis',
      value: ratio('rate', 'as-one, leases', 'RateLimiterRedis'),
      min: 10,
    },
    {
      case: 'one hot key, four workers',
      what: 'commands sent per decision, with leases',
      fact: (facts) => facts['as-one, leases'].sent,
      max: 0.02,
    },
    {
      case: 'three limits at once',
      what: 'decisions/s, against three limiters',
      value: ratio('rate', 'as-one', 'RateLimiterRedis'),
      min: 1.5,
    },
  ],
}
