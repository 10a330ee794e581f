import { readFileSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { freePort, isAlive, until } from '../helpers/fork.ts'
import { get } from '../helpers/http.ts'
import { type Listed, LOOK_EVERY_MS, type Outcome, openPlace, type Place } from './as-one.ts'

const server = (body: string): string => `const http = require('node:http')
const listen = (port = process.env.PORT, more = {}) => http.createServer((req, res) => res.end(JSON.stringify({ pid: process.pid, ...more }))).listen(port)
${body}
`

/** Each as PM2's documentation has it, or as it goes wrong there. */
const SCRIPTS = {
  'told.cjs': server(
    "listen(); setTimeout(() => { console.log('says ready'); process.send('ready') }, 1000)",
  ),
  'message.cjs': server(
    "listen(); process.on('message', (m) => { if (m === 'shutdown') { console.log('bye'); setTimeout(() => process.exit(0), 50) } })",
  ),
  'signal.cjs':
    "process.on('SIGINT', () => { console.log('cleaning up'); process.exit(0) }); setInterval(() => {}, 1000)",
  'deaf.cjs': server(
    "listen(); process.on('SIGINT', () => console.log('no')); process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)",
  ),
  'late.cjs': server('setTimeout(() => listen(process.env.PORT, { late: true }), 1500)'),
  'two.cjs': server('listen(); listen(process.env.SECOND_PORT, { second: true })'),
  'loops.cjs': server('listen(); setTimeout(() => process.exit(3), 200)'),
  'parks.cjs': 'setTimeout(() => process.exit(7), 1500)',
  'module.mjs': `import http from 'node:http'
const name = await Promise.resolve(import.meta.url)
http.createServer((req, res) => res.end(JSON.stringify({ name, argv: process.argv.slice(1) }))).listen(process.env.PORT)`,
  'tells.cjs':
    "console.log(JSON.stringify({ args: process.argv.slice(2), main: require.main === module, node: process.execArgv[0], cwd: process.cwd(), nr: process.env.NR, instance: process.env.NODE_APP_INSTANCE ?? null, count: process.env.COUNT })); console.error('oops'); setInterval(() => {}, 1000)",
  'throws.cjs': "throw new Error('no database at localhost')",
  'dies.cjs': 'setTimeout(() => process.exit(3), 200)',
}

describe('apps written for PM2', () => {
  let place: Place
  let started: Outcome
  let ports: Record<string, number>
  const app = async (name: string): Promise<Listed> =>
    (await place.list()).find((each) => each.name === name) as Listed
  const log = (name: string, file = 'out.log'): string =>
    readFileSync(join(place.state, 'as-one/apps', name, file), 'utf8')
  const ask = async <T>(name: string): Promise<T> => (await get(`http://127.0.0.1:${ports[name]}`)).json<T>()

  beforeAll(async () => {
    place = await openPlace()
    for (const [file, text] of Object.entries(SCRIPTS)) place.write(file, text)
    const names = ['told', 'message', 'deaf', 'late', 'two', 'second', 'loops', 'module']
    ports = Object.fromEntries(
      await Promise.all(names.map(async (name) => [name, await freePort()] as const)),
    )
    const entry = (script: string, more: object): object => {
      const name = script.replace(/\..*/, '')
      return { name, script, env: { PORT: ports[name], SECOND_PORT: ports.second }, ...more }
    }
    const apps = [
      entry('told.cjs', { instances: 1, wait_ready: true, listen_timeout: 10_000 }),
      entry('message.cjs', { instances: 1, shutdown_with_message: true }),
      entry('signal.cjs', {}),
      entry('deaf.cjs', { instances: 1, kill_timeout: 1_000 }),
      entry('late.cjs', { instances: 1, listen_timeout: 300 }),
      entry('two.cjs', { instances: 1 }),
      entry('loops.cjs', { instances: 2, exp_backoff_restart_delay: 50 }),
      entry('parks.cjs', { stop_exit_codes: [7] }),
      entry('module.mjs', { instances: 1, args: 'a b' }),
      entry('tells.cjs', {
        instances: 2,
        exec_mode: 'fork',
        args: ['--flag', 'two words'],
        node_args: '--max-old-space-size=100',
        instance_var: 'NR',
        increment_var: 'COUNT',
        env: { COUNT: 40 },
        out_file: 'logs/tells-out.log',
        error_file: 'logs/tells-error.log',
        merge_logs: false,
        log_date_format: 'YYYY',
      }),
    ]
    place.write('ecosystem.config.mjs', `export default { apps: ${JSON.stringify(apps)} }`)
    started = await place.run('start') // ecosystem.config.* of this directory
  }, 120_000)

  test('all of them start', () => {
    expect(started.stderr).toBe('')
    expect(started.code).toBe(0)
  })

  test("wait_ready: started when it has sent 'ready', not when it listens", async () => {
    const said = () => log('told').split('says ready').length - 1
    expect(said()).toBe(1)
    const reloaded = await place.run('reload', 'told')
    expect(said()).toBe(2)
    expect(reloaded, reloaded.stderr).toMatchObject({ code: 0 })
  })

  test('never listens, or later than listen_timeout: taken as started, and the next one is waited for', async () => {
    await until(() => ask('late'), { what: 'the late one to listen' })
    const reloaded = await place.run('reload', 'late')
    expect(reloaded, reloaded.stderr).toMatchObject({ code: 0 })
    expect(await ask('late')).toMatchObject({ late: true }) // would be refused, had the old one gone before
  })

  test('listens on two ports: both, also after a reload', async () => {
    const before = await ask<{ pid: number }>('two')
    expect(await place.run('reload', 'two')).toMatchObject({ code: 0 })
    expect((await ask<{ pid: number }>('two')).pid).not.toBe(before.pid)
    expect(await ask('second')).toMatchObject({ second: true })
  })

  test('an ES module is its own main script', async () => {
    const file = join(place.dir, 'module.mjs')
    expect(await ask('module')).toEqual({ name: `file://${file}`, argv: [file, 'a', 'b'] })
  })

  test('crashes every 200 ms: restarted again and again, never given up', async () => {
    const restarts = async (): Promise<number> =>
      (await app('loops')).workers.reduce((sum, each) => sum + each.restarts, 0)
    const before = await restarts()
    await until(async () => (await restarts()) > before + 2, {
      what: 'three more restarts',
      every: LOOK_EVERY_MS,
      deadline: 60_000,
    })
    expect(await app('loops')).toMatchObject({ status: 'online' })
  })

  test('a stop exit code is the end of that worker, until the next start', async () => {
    await until(async () => (await app('parks')).workers[0]?.state === 'parked', {
      what: 'the worker to be parked',
      every: LOOK_EVERY_MS,
    })
    expect((await place.run('logs', 'parks')).stdout).toMatch(/exited with code 7, one of .*stopExitCodes/)
  })

  test('args, node_args, cwd, instance_var, increment_var; a raw file per worker, reopened at SIGUSR1', async () => {
    const path = (worker: number, stream = 'out'): string =>
      join(place.dir, 'logs', `tells-${stream}-${worker}.log`)
    for (const worker of [0, 1]) {
      const [, line = ''] = /^\d{4}: (.*)\n$/.exec(readFileSync(path(worker), 'utf8')) ?? []
      expect(JSON.parse(line)).toEqual({
        args: ['--flag', 'two words'],
        main: true,
        node: '--max-old-space-size=100',
        cwd: place.dir,
        nr: String(worker),
        instance: null,
        count: String(40 + worker),
      })
      expect(readFileSync(path(worker, 'error'), 'utf8')).toMatch(/^\d{4}: oops\n$/)
    }
    renameSync(path(0), `${path(0)}.1`)
    process.kill((await app('tells')).pid, 'SIGUSR1')
    await until(() => readFileSync(path(0), 'utf8') === '', { what: 'the file to be there again' })
    expect(await place.run('reload', 'tells')).toMatchObject({ code: 0 })
    expect(readFileSync(path(0), 'utf8')).toContain('two words')
    expect((await place.run('logs', 'tells', '--json')).stdout).toContain('"worker":"1","stream":"stderr"')
  })

  test("asked to stop: the 'shutdown' message, SIGINT handlers, and the deadline of who ignores both", async () => {
    const deaf = (await app('deaf')).workers[0]?.pid as number
    const begun = performance.now()
    const stopped = await Promise.all(['message', 'signal', 'deaf'].map((name) => place.run('stop', name)))
    expect(stopped.map(({ stdout }) => stdout)).toEqual([
      'message: stopped\n',
      'signal: stopped\n',
      'deaf: stopped\n',
    ])
    expect(isAlive(deaf)).toBe(false)
    expect(performance.now() - begun).toBeLessThan(20_000)
    expect(log('message')).toContain('bye')
    expect(log('signal')).toContain('cleaning up')
  })
})

test('apps that do not start: the reason, exit code 1, nothing left', async () => {
  const place = await openPlace()
  for (const file of ['throws.cjs', 'dies.cjs'] as const) place.write(file, SCRIPTS[file])
  const [throws, dies, many] = await Promise.all([
    place.run('start', 'throws.cjs'),
    place.run('start', 'dies.cjs'),
    place.run('start', 'throws.cjs', '-i', '2', '--name', 'many'),
  ])
  expect(throws).toMatchObject({ code: 1, stdout: '' })
  expect(throws.stderr).toMatch(
    /throws did not start: no worker could start: exited with code 1 .*no database at localhost/s,
  )
  expect(dies).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/dies did not start: .*exited with code 3 before it was ready/),
  })
  expect(many).toMatchObject({ code: 1, stderr: expect.stringContaining('no database at localhost') })
  expect((await place.list()).map(({ status }) => status)).toEqual(['stopped', 'stopped', 'stopped'])
})
