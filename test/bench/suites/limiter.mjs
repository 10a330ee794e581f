import { loopSubject } from '../harness/loop-subject.mjs'
import { ratio } from '../harness/verdict.mjs'

const contenders = (keys) => ({
  'as-one': loopSubject({ module: 'limiter-as-one.mjs', options: { keys } }),
  'as-one, fixed window': loopSubject({
    module: 'limiter-as-one.mjs',
    options: { keys, algorithm: 'fixed-window' },
  }),
  RateLimiterRedis: loopSubject({ module: 'limiter-flexible.mjs', options: { keys } }),
  'rate-limit-redis': loopSubject({ module: 'limiter-express.mjs', options: { keys } }),
})

export default {
  title: 'Rate limits',
  about: `One process, 64 decisions in flight, the limit never reached. \`as-one\` is the strict sliding window;
RateLimiterRedis (rate-limiter-flexible) and rate-limit-redis (the store of express-rate-limit) are fixed windows, which
admit twice the limit across an edge.`,
  needs: { 'rate-limit-redis': ['rate-limit-redis'] },
  libraries: ['rate-limiter-flexible', 'rate-limit-redis', 'ioredis'],
  plan: { rounds: 6, sampleMs: 500, warmUpMs: 1_000 },
  plot: { metric: 'appUs', title: 'CPU per decision', unit: 'µs' },
  columns: ['rate', 'appUs', 'redisUs', 'sent', 'bytes'],
  cases: [{ name: '200 keys', contenders: contenders(200) }],
  bars: [
    {
      case: '200 keys',
      what: 'decisions/s, against RateLimiterRedis',
      value: ratio('rate', 'as-one', 'RateLimiterRedis'),
      min: 0.85,
    },
  ],
}
