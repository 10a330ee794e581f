import { describe, expect, test } from 'vitest'
import { MAX_WORKERS, resolveClusterOptions } from '../../src/cluster/options.ts'
import { appName } from '../../src/core/app-name.ts'
import { SharedStateError } from '../../src/core/errors.ts'

function mistakesOf(given: unknown, env: NodeJS.ProcessEnv = {}): string[] {
  try {
    resolveClusterOptions(given, env)
  } catch (error) {
    expect(error).toBeInstanceOf(SharedStateError)
    expect(error).toMatchObject({ code: 'ERR_AS_ONE_OPTIONS' })
    return (error as Error).message.split(/; (?=runCluster)/)
  }
  return []
}

describe('defaults', () => {
  test('are those of the documentation', () => {
    expect(resolveClusterOptions(undefined, {})).toMatchObject({
      name: appName(),
      namespace: appName(),
      listen: { port: 3000, host: undefined },
      redis: undefined,
      balance: 'round-robin',
      readyTimeoutMs: 30_000,
      drain: { delayMs: 0, lingerMs: 1_000, stopTimeoutMs: 8_000, reloadTimeoutMs: 30_000 },
      backoff: { minMs: 100, maxMs: 30_000, stableAfterMs: 30_000 },
      stopExitCodes: [],
      env: {},
    })
  })

  test('the environment says what the options do not', () => {
    const env = { PORT: '4100', WEB_CONCURRENCY: '3', AS_ONE_NAMESPACE: 'shop' }
    expect(resolveClusterOptions({}, env)).toMatchObject({
      listen: { port: 4100 },
      workers: 3,
      workersReason: 'WEB_CONCURRENCY: 3',
      namespace: 'shop',
    })
    expect(resolveClusterOptions({ port: 1, workers: 2, namespace: 'mine', name: 'x' }, env)).toMatchObject({
      listen: { port: 1 },
      workers: 2,
      workersReason: 'workers: 2',
      namespace: 'mine',
    })
  })

  test('an empty variable is none', () => {
    expect(resolveClusterOptions({ workers: 'inline' }, { PORT: '', WEB_CONCURRENCY: '' })).toMatchObject({
      listen: { port: 3000 },
      workers: 'inline',
    })
  })
})

describe('workers', () => {
  test.each([1, 7, MAX_WORKERS, '5'])('%s is a count', (workers) => {
    expect(resolveClusterOptions({ workers }, {}).workers).toBe(Number(workers))
  })

  test('a share of the CPUs is at least one worker', () => {
    expect(resolveClusterOptions({ workers: '1%' }, {}).workers).toBe(1)
    const { workers: max, workersReason } = resolveClusterOptions({ workers: 'max' }, {})
    expect(resolveClusterOptions({ workers: '100%' }, {}).workers).toBe(max)
    expect(workersReason).toMatch(/^workers: max of \d+ CPUs \(.+\)$/)
  })

  test.each([0, -1, 1.5, '0%', '%', 'many', MAX_WORKERS + 1, Number.NaN, {}])('%s is refused', (workers) => {
    expect(mistakesOf({ workers })).toEqual([expect.stringMatching(/^runCluster: workers must be 1 to 1024/)])
  })

  test('a mistake in the environment names the variable', () => {
    expect(mistakesOf({}, { WEB_CONCURRENCY: 'all' })).toEqual([
      expect.stringMatching(/workers .*'all' from WEB_CONCURRENCY/),
    ])
    expect(mistakesOf({ workers: 1 }, { PORT: '3000x' })).toEqual([
      expect.stringMatching(/port .*environment variable PORT.*'3000x'/),
    ])
  })
})

describe('mistakes', () => {
  test('are reported all together, by name', () => {
    const mistakes = mistakesOf({
      port: -1,
      host: '',
      workers: 'lots',
      balance: 'sticky',
      readyTimeout: 'soon',
      drain: { linger: -1, wait: 3 },
      backoff: { min: '1x', stopExitCodes: [256] },
      env: { A: 1 },
      namespace: 'a b',
      surprise: true,
    })
    for (const name of [
      'port',
      'host',
      'workers',
      'balance',
      'readyTimeout',
      'drain.linger',
      'drain.wait',
      'backoff.min',
      'backoff.stopExitCodes',
      'env',
      'namespace',
      'surprise',
    ])
      expect(mistakes, name).toContainEqual(expect.stringMatching(new RegExp(`^runCluster: ${name} `)))
    expect(mistakes).toHaveLength(12)
    expect(mistakes.join()).not.toContain('\n')
  })

  test.each([
    ['instances', 'workers'],
    ['hostname', 'host'],
    ['listen_timeout', 'readyTimeout'],
    ['kill_timeout', 'drain.stopTimeout'],
    ['exp_backoff_restart_delay', 'backoff.min'],
    ['keyPrefix', 'namespace'],
    ['worker', 'workers'], // a typing mistake
  ])('%s is answered with %s', (theirs, ours) => {
    expect(mistakesOf({ [theirs]: 1 })).toEqual([
      `runCluster: ${theirs} is not an option; did you mean ${ours}?`,
    ])
  })

  test.each([null, 3, 'x', []])('options that are %j are no options', (given) => {
    expect(mistakesOf(given)).toEqual([expect.stringMatching(/^runCluster must be an object/)])
  })

  test('a drain must have time for what it waits for', () => {
    expect(mistakesOf({ drain: { delay: '5s', linger: '3s' } })).toEqual([
      'runCluster: drain.stopTimeout (8000 ms) must be longer than drain.delay and drain.linger together (8000 ms)',
    ])
    expect(mistakesOf({ drain: { delay: '40s', stopTimeout: '60s', reloadTimeout: 1 } })).toEqual([
      expect.stringMatching(/drain\.reloadTimeout \(1 ms\)/),
    ])
    expect(mistakesOf({ drain: { delay: '5s', linger: '2s' } })).toEqual([])
  })

  test('the shortest backoff is not longer than the longest', () => {
    expect(mistakesOf({ backoff: { min: '2s', max: '1s' } })).toEqual([
      'runCluster: backoff.min must not be longer than backoff.max',
    ])
  })

  test('a wait longer than timers can wait is refused, since they would fire at once', () => {
    for (const given of [
      { readyTimeout: '25d' },
      { drain: { reloadTimeout: '30d' } },
      { backoff: { max: '99d' } },
    ])
      expect(mistakesOf(given)).toEqual([expect.stringContaining("must be at most '24d'")])
    expect(mistakesOf({ readyTimeout: '24d' })).toEqual([])
  })

  test('a socket path stands alone and fits into a socket address', () => {
    expect(mistakesOf({ socketPath: '/run/app.sock', port: 80 })).toEqual([
      'runCluster: socketPath cannot be combined with port or host',
    ])
    expect(mistakesOf({ socketPath: `/${'x'.repeat(100)}` })).toEqual([
      'runCluster: socketPath must be at most 100 bytes long',
    ])
    expect(resolveClusterOptions({ socketPath: '/run/app.sock' }, { PORT: '80' }).listen).toEqual({
      path: '/run/app.sock',
    })
  })
})

test("the caller's object is neither kept nor changed", () => {
  const given = Object.freeze({ env: Object.freeze({ A: 'b' }), drain: Object.freeze({ linger: 5 }) })
  const resolved = resolveClusterOptions(given, {})
  expect(resolved.env).toEqual({ A: 'b' })
  expect(resolved.env).not.toBe(given.env)
  expect(Object.isFrozen(resolved)).toBe(true)
})

test('limits, hang detection and the health port', () => {
  const { recycle, hangTimeoutMs, health, waitReady } = resolveClusterOptions({}, {})
  expect({ recycle, hangTimeoutMs, health, waitReady }).toEqual({
    recycle: { maxMemoryBytes: undefined, maxRequests: undefined, maxAgeMs: undefined },
    hangTimeoutMs: 30_000,
    health: undefined,
    waitReady: false,
  })
  const token = 'sixteen-characters'
  expect(
    resolveClusterOptions(
      {
        recycle: { maxMemory: '512mb', maxRequests: 10_000, maxAge: '1d' },
        hangTimeout: false,
        health: { port: 9_000, token },
      },
      {},
    ),
  ).toMatchObject({
    recycle: { maxMemoryBytes: 512 * 2 ** 20, maxRequests: 10_000, maxAgeMs: 86_400_000 },
    hangTimeoutMs: undefined,
    health: { port: 9_000, host: '127.0.0.1', token },
  })
  expect(() =>
    resolveClusterOptions(
      {
        recycle: { maxMemory: 'much', maxMemoryRestart: '1gb' },
        hangTimeout: '1s',
        health: { host: 'x', token: 'short' },
        max_memory_restart: '1gb',
      },
      {},
    ),
  ).toThrow(
    /recycle\.maxMemory must be a size.*hangTimeout must be a duration.*at least 2000 ms.*health\.port is missing.*health\.token must have at least 16 characters/s,
  )
  const once = /^runCluster: health\.port must be a whole number from 0 to 65535, got 99999$/
  expect(() => resolveClusterOptions({ health: { port: 99_999 } }, {})).toThrow(once)
  expect(() => resolveClusterOptions({ max_memory_restart: '1gb' }, {})).toThrow(
    /did you mean recycle\.maxMemory/,
  )
})
