import { loopSubject } from '../harness/loop-subject.mjs'
import { ratio } from '../harness/verdict.mjs'

const AT_ONCE = 32
const both = (what, options) => ({
  'as-one': loopSubject({ module: 'cache-as-one.mjs', options: { what, atOnce: AT_ONCE, ...options } }),
  bentocache: loopSubject({ module: 'cache-bentocache.mjs', options: { what, atOnce: AT_ONCE, ...options } }),
})
const raw = (what, options) => ({
  ioredis: loopSubject({ module: 'cache-raw.mjs', options: { what, atOnce: AT_ONCE, ...options } }),
})
const memory = (library, options) => ({
  [library]: loopSubject({ module: 'cache-memory.mjs', redis: false, options: { library, ...options } }),
})
const near = (options) => both('near', { atOnce: 1, ...options })
const tags = ['red', 'wool']
const farCase = (what) => (name, options) => ({
  name,
  contenders: { ...both(what, options), ...raw('far', { atOnce: options?.atOnce ?? AT_ONCE }) },
})
const far = farCase('far')
const behind = farCase('behind')

export default {
  title: 'Cache',
  about: `500 objects of 670 bytes. \`L1 hit\`: one read after the other from memory, each awaited, by \`get\`; by
\`getOrSet\` (cache-manager's \`wrap\`); of entries with two tags. cache-manager and cacheable are caches of one process
alone, with nothing to invalidate. \`L2 hit\`: 32 reads at a time from Redis, or one after the other; without L1, where
Redis has to say of each entry whether its generation and tags still count, and behind an L1 that has room for half of
them, where that is known here. \`set\`: writes, likewise. \`ioredis\` is GET or SET with JSON and nothing else. One at a time,
nothing is shared by two commands: most of the CPU is the system's, for a write and a read of the socket each.`,
  needs: { bentocache: ['bentocache'], 'cache-manager': ['cache-manager'], cacheable: ['cacheable'] },
  libraries: ['bentocache', 'cache-manager', 'cacheable', 'ioredis', 'lru-cache'],
  // One at a time, V8 has not compiled everything within a second.
  plan: { sampleMs: 500, warmUpMs: 3_000, rounds: 6, mostSittings: 8 },
  plot: { metric: 'appUs', title: 'CPU per operation', unit: 'µs' },
  columns: ['rate', 'appUs', 'redisUs', 'sent', 'bytes'],
  cases: [
    {
      name: 'L1 hit',
      contenders: { ...near({ call: 'get' }), ...memory('cache-manager'), ...memory('cacheable') },
    },
    { name: 'L1 hit, getOrSet', contenders: { ...near(), ...memory('cache-manager', { call: 'wrap' }) } },
    { name: 'L1 hit, tagged', contenders: near({ tags }) },
    far('L2 hit'),
    far('L2 hit, one at a time', { atOnce: 1 }),
    far('L2 hit, tagged', { tags }),
    far('L2 hit, tagged, one at a time', { tags, atOnce: 1 }),
    behind('L2 hit behind L1'),
    behind('L2 hit behind L1, one at a time', { atOnce: 1 }),
    behind('L2 hit behind L1, tagged, one at a time', { tags, atOnce: 1 }),
    { name: 'set', contenders: { ...both('set'), ...raw('set') } },
    {
      name: 'set, one at a time',
      contenders: { ...both('set', { atOnce: 1 }), ...raw('set', { atOnce: 1 }) },
    },
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
    { case: 'L1 hit, getOrSet', what: 'L1 hits/s', value: (round) => round['as-one'].rate, min: 5e6 },
    { case: 'L1 hit, tagged', what: 'L1 hits/s', value: (round) => round['as-one'].rate, min: 5e6 },
    ...[
      'L2 hit',
      'L2 hit, one at a time',
      'L2 hit, tagged',
      'L2 hit, tagged, one at a time',
      'L2 hit behind L1',
      'L2 hit behind L1, one at a time',
      'L2 hit behind L1, tagged, one at a time',
    ].map((each) => ({
      case: each,
      what: 'CPU of an L2 hit, of GET and JSON.parse',
      value: ratio('appUs', 'as-one', 'ioredis'),
      max: 1.3,
    })),
    { case: 'set', what: 'CPU of a set, µs', value: (round) => round['as-one'].appUs, max: 20 },
  ],
}
