import { loopSubject } from '../harness/loop-subject.mjs'
import { ratio } from '../harness/verdict.mjs'

const both = (what) => ({
  'as-one': loopSubject({ module: 'cache-as-one.mjs', options: { what } }),
  bentocache: loopSubject({ module: 'cache-bentocache.mjs', options: { what } }),
})
const raw = (what) => ({ ioredis: loopSubject({ module: 'cache-raw.mjs', options: { what } }) })
const memory = (library) => ({
  [library]: loopSubject({ module: 'cache-memory.mjs', redis: false, options: { library } }),
})

export default {
  title: 'Cache',
  about: `500 objects of 400 bytes. \`L1 hit\`: one read after the other from memory; cache-manager and cacheable
are caches of one process alone, with nothing to invalidate. \`L2 hit\`: 32 reads at a time from Redis, without L1.
\`set\`: 32 writes at a time; \`ioredis\` is GET or SET with JSON and nothing else.`,
  needs: { bentocache: ['bentocache'], 'cache-manager': ['cache-manager'], cacheable: ['cacheable'] },
  libraries: ['bentocache', 'cache-manager', 'cacheable', 'ioredis', 'lru-cache'],
  plan: { rounds: 6, sampleMs: 500, warmUpMs: 1_000 },
  plot: { metric: 'appUs', title: 'CPU per operation', unit: 'µs' },
  columns: ['rate', 'appUs', 'redisUs', 'sent', 'bytes'],
  cases: [
    { name: 'L1 hit', contenders: { ...both('near'), ...memory('cache-manager'), ...memory('cacheable') } },
    { name: 'L2 hit', contenders: { ...both('far'), ...raw('far') } },
    { name: 'set', contenders: { ...both('set'), ...raw('set') } },
  ],
  bars: [
    { case: 'L1 hit', what: 'L1 hits/s', value: (round) => round['as-one'].rate, min: 5e6 },
    {
      case: 'L1 hit',
      what: 'L1 hits/s, against bentocache',
      value: ratio('rate', 'as-one', 'bentocache'),
      min: 15,
    },
    {
      case: 'L1 hit',
      what: 'L1 hits/s, against cache-manager',
      value: ratio('rate', 'as-one', 'cache-manager'),
      min: 1.5,
    },
    {
      case: 'L2 hit',
      what: 'CPU of an L2 hit, of GET and JSON.parse',
      value: ratio('appUs', 'as-one', 'ioredis'),
      max: 1.3,
    },
    { case: 'set', what: 'CPU of a set, µs', value: (round) => round['as-one'].appUs, max: 20 },
  ],
}
