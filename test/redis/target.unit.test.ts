import fc from 'fast-check'
import { Cluster, Redis } from 'ioredis'
import { expect, onTestFinished, test } from 'vitest'
import { type RedisOption, type RedisTarget, resolveRedis } from '../../src/redis/target.ts'
import { fcParams } from '../helpers/random.ts'

const resolve = (option: unknown, env: NodeJS.ProcessEnv = {}): RedisTarget =>
  resolveRedis(option as RedisOption, env)

function messageOf(option: unknown, env: NodeJS.ProcessEnv = {}): string {
  try {
    resolve(option, env)
  } catch (error) {
    expect(error).toMatchObject({ code: 'ERR_AS_ONE_REDIS_CONFIG' })
    return (error as Error).message
  }
  throw new Error(`${String(option)} was accepted`)
}

test.each<[string, string, object]>([
  ['redis://', 'localhost:6379', { host: 'localhost', port: 6379 }],
  ['redis://redis', 'redis:6379', { host: 'redis', port: 6379 }],
  ['redis://10.0.0.1:6380/3', '10.0.0.1:6380', { host: '10.0.0.1', port: 6380, db: 3 }],
  ['redis://:6380', 'localhost:6380', { host: 'localhost', port: 6380 }],
  ['redis://h/?db=4', 'h:6379', { host: 'h', port: 6379, db: 4 }],
  ['redis://h?family=6', 'h:6379', { host: 'h', port: 6379, family: 6 }],
  ['redis://[::1]:6380', '[::1]:6380', { host: '::1', port: 6380 }],
  ['redis://[fe80::1]', '[fe80::1]:6379', { host: 'fe80::1', port: 6379 }],
  ['redis://:pw@h', 'h:6379', { host: 'h', port: 6379, password: 'pw' }],
  ['redis://me:pw@h', 'h:6379', { host: 'h', port: 6379, username: 'me', password: 'pw' }],
  ['redis://h:@h', 'h:6379', { host: 'h', port: 6379, username: 'h' }],
  ['rediss://:pw@h:6380', 'h:6380', { host: 'h', port: 6380, password: 'pw', tls: {} }],
  ['unix:///run/redis.sock', '/run/redis.sock', { path: '/run/redis.sock' }],
  ['unix:///run/a%20b@c.sock?db=2', '/run/a b@c.sock', { path: '/run/a b@c.sock', db: 2 }],
  [
    'unix://me:pw@/run/redis.sock',
    '/run/redis.sock',
    { path: '/run/redis.sock', username: 'me', password: 'pw' },
  ],
  [
    'redis+sentinel://a,b:5000,[::1]/mymaster',
    'Redis Sentinel mymaster at a:26379,b:5000,[::1]:26379',
    {
      sentinels: [
        { host: 'a', port: 26379 },
        { host: 'b', port: 5000 },
        { host: '::1', port: 26379 },
      ],
      name: 'mymaster',
    },
  ],
  [
    'rediss+sentinel://:pw@a/m/2?sentinelPassword=s%40p',
    'Redis Sentinel m at a:26379',
    {
      sentinels: [{ host: 'a', port: 26379 }],
      name: 'm',
      sentinelPassword: 's@p',
      password: 'pw',
      tls: {},
      enableTLSForSentinelMode: true,
      db: 2,
    },
  ],
])('%s leads to %s', (url, label, options) => {
  expect(resolve(url)).toEqual({
    kind: 'server',
    label,
    id: expect.stringMatching(/^[0-9a-f]{64}$/),
    options,
  })
})

test.each<[string, object[], object]>([
  [
    'redis+cluster://a,b:7000',
    [
      { host: 'a', port: 6379 },
      { host: 'b', port: 7000 },
    ],
    {},
  ],
  ['rediss+cluster://me:pw@a/', [{ host: 'a', port: 6379 }], { username: 'me', password: 'pw', tls: {} }],
])('%s leads to a cluster', (url, nodes, redisOptions) => {
  expect(resolve(url)).toMatchObject({ kind: 'cluster', nodes, options: { redisOptions } })
})

test('one URL is one Redis, another is another', () => {
  const { id } = resolve('redis://a')
  expect(resolve('redis://a').id).toBe(id)
  expect(resolve('redis://a/1').id).not.toBe(id)
})

test('the environment: REDIS_URL, else local, and in production neither unasked', () => {
  expect(resolve(undefined, { REDIS_URL: 'redis://h' })).toMatchObject({ label: 'h:6379' })
  expect(resolve(undefined, { REDIS_URL: 'redis://h', NODE_ENV: 'production' })).toMatchObject({
    label: 'h:6379',
  })
  expect(resolve(undefined)).toMatchObject({ kind: 'local' })
  expect(resolve('local', { NODE_ENV: 'production' })).toMatchObject({ kind: 'local' })
  expect(messageOf(undefined, { NODE_ENV: 'production' })).toMatch(
    /^[^\n]*REDIS_URL[^\n]*redis: 'local'[^\n]*$/,
  )
  expect(messageOf(undefined, { REDIS_URL: 'http://h' })).toMatch(/^REDIS_URL must start with redis:/)
})

test.each<[string, RegExp]>([
  ['', /must start with/],
  ['localhost:6379', /must start with redis:.*, got 'localhost'…$/],
  ['http://h', /must start with/],
  ['redis:h', /must start with/],
  ['redis://h:0', /no usable host and port/],
  ['redis://h:65536', /no usable host and port/],
  ['redis://h:port', /no usable host and port/],
  ['redis://a,,b', /no usable host and port/],
  ['redis+cluster://a,', /no usable host and port/],
  ['redis://::1', /no usable host and port/],
  ['redis://[::1', /no usable host and port/],
  ['redis://a,b', /must name one host/],
  ['redis://h/zero', /database that is no number/],
  ['redis://h/0/1', /nothing but a database number/],
  ['redis://h?database=3', /unknown parameter, known are db, family/],
  ['redis://h?family=5', /none of 0, 4, 6/],
  ['redis://user@h', /user without a password/],
  ['redis://:50%@h', /no percent-encoding/],
  ['unix://run/redis.sock', /absolute path/],
  ['unix://:@/secret@/run/redis.sock', /encode @/],
  ['redis+sentinel://a', /must name the master/],
  ['redis+sentinel://a/m/1/2', /must name the master/],
  ['redis+cluster://a/1', /must not name a database/],
])('%j is refused', (url, message) => {
  expect(messageOf(url)).toMatch(message)
})

test('no password reaches a label or an error, encoded or forgotten to be', () => {
  const shapes = [
    (pw: string) => `redis://:${pw}@host:6379/0`,
    (pw: string) => `redis://user:${pw}@host:99999`,
    (pw: string) => `rediss://:${pw}@host/zero`,
    (pw: string) => `redis+cluster://:${pw}@a,b/1`,
    (pw: string) => `redis+sentinel://:${pw}@a,b`,
    (pw: string) => `redis+sentinel://:pw@a,b/m?sentinelPassword=${pw}`,
    (pw: string) => `redis+sentinel://:pw@a,b?sentinelPassword=${pw}`,
    (pw: string) => `http://:${pw}@host`,
    (pw: string) => `redis:/:${pw}@host`,
    (pw: string) => `host:6379,password=${pw}`,
    (pw: string) => `unix://:${pw}@relative`,
  ]
  // 'Zq' occurs nowhere else, so any two characters of a password that come through are found.
  const specials = fc.stringMatching(/^[@/?#:%,;&=+[\] a]{0,4}$/)
  const passwords = fc.tuple(specials, specials, specials).map(([a, b, c]) => `${a}Zq${b}Zq${c}Zq`)
  fc.assert(
    fc.property(passwords, fc.constantFrom(...shapes), fc.boolean(), (password, shape, encoded) => {
      const text = encoded ? encodeURIComponent(password) : password
      let said: string
      try {
        said = resolve(shape(text)).label
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_AS_ONE_REDIS_CONFIG' })
        said = (error as Error).message
      }
      expect(said).not.toContain('Zq')
    }),
    fcParams({ numRuns: 1_000 }),
  )
})

test('an encoded password arrives as it was', () => {
  fc.assert(
    fc.property(fc.string({ minLength: 1, unit: 'grapheme' }), (password) => {
      const target = resolve(`redis://me:${encodeURIComponent(password)}@host/2`)
      expect(target).toMatchObject({ label: 'host:6379', options: { username: 'me', password, db: 2 } })
    }),
    fcParams(),
  )
})

test('ioredis options', () => {
  expect(resolve({ host: '::1', password: 'pw' })).toMatchObject({
    kind: 'server',
    label: '[::1]:6379',
    id: undefined,
    options: { host: '::1', password: 'pw' },
  })
  expect(resolve({}).label).toBe('localhost:6379')
  expect(resolve({ path: '/run/r.sock' }).label).toBe('/run/r.sock')
  expect(resolve({ sentinels: [{ host: 'a' }], name: 'm' }).label).toBe('Redis Sentinel m at a:26379')
})

test('ioredis instances, recognised by their methods and left alone', () => {
  const redis = new Redis({ host: 'h', port: 1, password: 'pw', lazyConnect: true })
  const cluster = new Cluster(['redis://:pw@a:1', { host: 'b', port: 2 }], {
    lazyConnect: true,
    redisOptions: { password: 'pw' },
  })
  onTestFinished(() => {
    redis.disconnect()
    cluster.disconnect()
  })
  expect(resolve(redis)).toMatchObject({ kind: 'server', label: 'h:1', options: { password: 'pw' } })
  const target = resolve(cluster)
  expect(target).toMatchObject({ kind: 'cluster', options: { redisOptions: { password: 'pw' } } })
  expect(target.label).toMatch(/^Redis Cluster .*a:1,b:2$/)
  expect(target.label).not.toContain('pw')
  expect([redis.status, cluster.status]).toEqual(['wait', 'wait'])
})

test('keyPrefix is refused wherever it hides', () => {
  const redis = new Redis({ keyPrefix: 'x:', lazyConnect: true })
  const cluster = new Cluster([{ host: 'a' }], { lazyConnect: true, redisOptions: { keyPrefix: 'x:' } })
  const cluster2 = new Cluster([{ host: 'a' }], { lazyConnect: true, keyPrefix: 'x:' })
  onTestFinished(() => {
    for (const client of [redis, cluster, cluster2]) client.disconnect()
  })
  for (const option of [{ keyPrefix: 'x:' }, redis, cluster, cluster2])
    expect(messageOf(option)).toMatch(/keyPrefix 'x:'.*namespace option/)
})

test.each<[unknown, RegExp]>([
  [5, /must be a URL, 'local', ioredis options or an ioredis instance, got 5/],
  [null, /got null/],
  [['redis://h'], /got an array/],
  [{ url: 'redis://:Zq@h' }, /^redis: url is not an option of ioredis; pass the URL itself$/],
  [{ socket: { host: 'h' } }, /node-redis/],
  [{ nodes: [] }, /redis\+cluster/],
])('%j is refused', (option, message) => {
  expect(messageOf(option)).toMatch(message)
})
