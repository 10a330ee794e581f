import { describe, expect, test } from 'vitest'
import type { Overrides } from '../../src/cli/app-source.ts'
import { type AppSpec, specOf } from '../../src/cli/app-spec.ts'
import { formatDate, formatLine } from '../../src/cli/log-plan.ts'
import { usableCpus } from '../../src/cluster/index.ts'

const spec = (entry: object, overrides: Overrides = {}): AppSpec =>
  specOf({ script: 'app.js', ...entry }, overrides, { at: 'eco', dir: '/srv/shop' })
const refused = (entry: object): string => {
  try {
    spec(entry)
  } catch (error) {
    return (error as Error).message
  }
  return 'taken'
}

describe('an entry of an ecosystem file', () => {
  test('a script alone is one process, ready once it listens or has lived for a second', () => {
    expect(spec({})).toMatchObject({
      name: 'app',
      mode: 'fork',
      workers: 1,
      settleMs: 1_000,
      script: '/srv/shop/app.js',
      cwd: '/srv/shop',
      waitReady: false,
      warnings: [],
    })
  })

  const { count } = usableCpus()
  test.each([
    [1, 'cluster', 1],
    ['3', 'cluster', 3],
    ['max', 'cluster', count],
    [0, 'cluster', count],
    [-1, 'cluster', Math.max(1, count - 1)],
    [-1_000, 'cluster', 1],
  ])('instances: %s is %s mode with %d', (instances, mode, workers) => {
    expect(spec({ instances })).toMatchObject({ mode, workers })
  })

  test('fork mode with instances stays fork mode', () => {
    expect(spec({ instances: 2, exec_mode: 'fork_mode' })).toMatchObject({ mode: 'fork', workers: 2 })
    expect(spec({ exec_mode: 'cluster' })).toMatchObject({ mode: 'cluster', settleMs: 3_000 })
  })

  test('env, then env_<name>, every value a text', () => {
    const entry = {
      env: { A: 1, B: true, C: { x: 1 }, D: null, E: 'e' },
      env_production: { E: 'p' },
      port: 80,
    }
    expect(spec(entry, { env: 'production' }).env).toEqual({
      A: '1',
      B: 'true',
      C: '{"x":1}',
      E: 'p',
      PORT: '80',
    })
    expect(spec(entry, { env: 'prodution' }).warnings).toEqual([
      'eco: has no env_prodution, so --env prodution changes nothing; did you mean production?',
    ])
  })

  test.each<[object, object]>([
    [{ kill_timeout: 1_600 }, { drain: { stopTimeout: 1_600, reloadTimeout: 1_600, linger: 800 } }],
    [{ kill_timeout: '5000' }, { drain: { stopTimeout: 5_000, reloadTimeout: 5_000, linger: 1_000 } }],
    [{ listen_timeout: 500 }, { readyTimeout: 30_000 }],
    [{ listen_timeout: 60_000 }, { readyTimeout: 60_000 }],
    [{ max_memory_restart: '300M' }, { recycle: { maxMemory: 314_572_800 } }],
    [{ max_memory_restart: '1G' }, { recycle: { maxMemory: 1_073_741_824 } }],
    [{ max_memory_restart: 1_000_000 }, { recycle: { maxMemory: 1_000_000 } }],
    [{ exp_backoff_restart_delay: 100 }, { backoff: { min: 100, max: 15_000 } }],
    [{ restart_delay: 3_000 }, { backoff: { min: 3_000, max: 3_000 } }],
    [{ min_uptime: '1h' }, { backoff: { stableAfter: 3_600_000 } }],
    [{ stop_exit_codes: [0, 7] }, { backoff: { stopExitCodes: [0, 7] } }],
    [{ stop_exit_codes: 0 }, { backoff: { stopExitCodes: [0] } }],
    [{ cluster: { hangTimeout: '5s', namespace: 'x' } }, { hangTimeout: '5s', namespace: 'x' }],
  ])('%o becomes %o', (entry, options) => {
    expect(spec(entry).options).toMatchObject(options)
  })

  test('autorestart: false is every exit code', () => {
    expect(
      (spec({ autorestart: false }).options.backoff as { stopExitCodes: number[] }).stopExitCodes,
    ).toHaveLength(256)
  })

  test('args and node_args as a text or a list', () => {
    expect(
      spec({ args: `--a "two words" --b='x y' c`, node_args: ['--max-old-space-size=64'] }),
    ).toMatchObject({
      args: ['--a', 'two words', '--b=x y', 'c'],
      nodeArgs: ['--max-old-space-size=64'],
    })
    expect(spec({ interpreter_args: '--trace-warnings' }).nodeArgs).toEqual(['--trace-warnings'])
    expect(spec({ args: 'a' }, { args: ['b'] }).args).toEqual(['b'])
  })

  test('log files: relative to cwd, one per worker without merging, raw', () => {
    expect(
      spec({ cwd: 'api', out_file: 'o.log', err_file: '/e.log', merge_logs: false, time: true }).logs,
    ).toEqual({
      out: '/srv/shop/api/o.log',
      error: '/e.log',
      perWorker: true,
      format: { json: false, date: 'YYYY-MM-DDTHH:mm:ss' },
    })
    expect(spec({ log: 'both.log', log_type: 'json' }).logs).toMatchObject({
      out: '/srv/shop/both.log',
      error: '/srv/shop/both.log',
      format: { json: true },
    })
  })

  test('one warning for each key that is not for us, none for those without effect', () => {
    expect(
      spec({
        watch: true,
        cron_restart: '0 0 * * *',
        instnces: 2,
        namespace: 'x',
        vizion: false,
        max_restarts: 5,
      }).warnings,
    ).toEqual([
      'eco: watch is not for production: use node --watch while developing',
      "eco: cron_restart is left out: use a systemd timer or cron with 'as-one reload <app>'",
      'eco: instnces is not a key that as-one knows, and is left out; did you mean instances?',
      expect.stringMatching(/^eco: namespace groups apps in PM2/),
    ])
    expect(spec({ watch: false, ignore_watch: ['node_modules'], interpreter: 'node' }).warnings).toEqual([])
  })

  test('all mistakes together', () => {
    expect(
      refused({
        instances: 'lots',
        exec_mode: 'thread',
        kill_timeout: 'soon',
        interpreter: 'python3',
        uid: 'www',
      }),
    ).toMatch(
      /^eco: interpreter 'python3' is left out: .*uid is not for as-one.*exec_mode must be 'cluster' or 'fork', got 'thread'.*instances must be .*got 'lots'.*kill_timeout must be .*got 'soon'/,
    )
    expect(refused({ script: undefined })).toMatch(/needs a script/)
    expect(refused({ script: 'npm', args: 'start' })).toMatch(/'npm' is no Node script/)
    expect(refused({ max_memory_restart: 'much' })).toMatch(/max_memory_restart must be bytes/)
    expect(refused({ name: '..' })).toMatch(/needs a script|name must be/)
  })

  test('a name becomes one that can be a file name', () => {
    expect(spec({ name: 'My API (v2)' }).name).toBe('My-API-v2-')
    expect(spec({ name: '../../etc' }).name).toBe('etc')
  })

  test.skipIf(Boolean((process.features as { typescript?: unknown }).typescript))(
    'TypeScript where Node cannot',
    () => {
      expect(refused({ script: 'app.ts' })).toMatch(
        /app\.ts is TypeScript, which Node\.js .* cannot run: use 22\.18 or newer/,
      )
      expect(spec({ script: 'app.ts', node_args: '--import tsx' }).script).toBe('/srv/shop/app.ts')
    },
  )
})

describe('a line of a log', () => {
  const at = new Date(2026, 10, 5, 7, 8, 9, 45)
  const from = { name: 'api', index: 2, stream: 'stderr' } as const

  test('with prefix, date, or as JSON', () => {
    expect(formatLine('x', from, { json: false, prefix: true })).toBe('[api:2] x')
    expect(formatLine('x', from, { json: false, prefix: false, date: 'HH:mm' }, at)).toBe('07:08: x')
    expect(JSON.parse(formatLine('x"\u0007', from, { json: true, prefix: true }, at))).toEqual({
      timestamp: at.toISOString(),
      app: 'api',
      worker: 2,
      stream: 'stderr',
      message: 'x"\u0007',
    })
  })

  test.each([
    ['YYYY-MM-DD HH:mm:ss.SSS', '2026-11-05 07:08:09.045'],
    ['DD/MM/YY H:mm A', '05/11/26 7:08 AM'],
    ['[day] D', 'day 5'],
  ])('%s', (format, expected) => {
    expect(formatDate(at, format)).toBe(expected)
  })
})
