import {
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { isAlive, until } from '../helpers/fork.ts'
import { get, steadyLoad } from '../helpers/http.ts'
import { sendSignal } from '../helpers/processes.ts'
import { appText, copyExample, LOOK_EVERY_MS, openPlace } from './as-one.ts'

test('an ecosystem file written for PM2: start, list, logs, scale, reload under load, stop, start, delete', async () => {
  const place = await openPlace()
  copyExample(place, 'pm2')
  const started = await place.run('start', 'ecosystem.config.cjs', '--env', 'production')
  expect(started).toMatchObject({ code: 0 })
  expect(started.stdout).toMatch(/^web: started on \d+ workers? \(pid \d+\)/m)
  expect(started.stdout).toMatch(/^queue: started on 1 worker /m)
  // queue has no env_production, and the file's other keys are all known.
  expect(started.stderr).toBe(
    `as-one: ${place.dir}/ecosystem.config.cjs: app 'queue': has no env_production, so --env production changes nothing\n`,
  )
  expect((await get(place.url)).json()).toMatchObject({ env: 'production', greeting: 'good day' })

  expect((await place.run('scale', 'web', '3')).stdout).toBe('web: 3 workers\n')
  const ready = async (): Promise<number> =>
    (await place.list()).find(({ name }) => name === 'web')?.workers.filter(({ state }) => state === 'ready')
      .length ?? 0
  await until(async () => (await ready()) === 3, {
    what: 'three workers',
    deadline: 20_000,
    every: LOOK_EVERY_MS,
  })

  const load = steadyLoad({ url: `${place.url}/slow`, clients: 6 })
  const reloaded = await place.run('reload', 'web')
  const { ok, failed, reasons } = await load.stop()
  expect(reloaded, reloaded.stderr).toMatchObject({ code: 0 })
  expect(reloaded.stdout).toMatch(/worker \d is ready, pid \d+ \(3 of 3\)\nweb: reloaded 3 workers\n$/)
  expect({ failed, reasons }).toEqual({ failed: 0, reasons: {} })
  expect(ok).toBeGreaterThan(10)

  expect((await place.run('scale', 'web', '-1')).stdout).toBe('web: 2 workers\n')
  await until(async () => (await ready()) === 2, {
    what: 'two workers',
    deadline: 20_000,
    every: LOOK_EVERY_MS,
  })
  const logs = await place.run('logs', 'web', '--lines', '50')
  expect(logs.stdout).toContain(`[web:0] http://localhost:${place.port}`)
  const json = (await place.run('logs', 'queue', '--json')).stdout.trim().split('\n')
  expect(JSON.parse(json.at(-1) as string)).toMatchObject({
    app: 'queue',
    worker: '0',
    stream: 'stdout',
    message: expect.stringMatching(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}: job \d+$/),
  })

  const [queue, web] = await place.list()
  expect(queue).toMatchObject({ name: 'queue', status: 'online', mode: 'fork', desired: 1 })
  expect(web).toMatchObject({
    name: 'web',
    status: 'online',
    mode: 'cluster',
    desired: 2,
    generation: 2,
    env: 'production',
  })
  expect((await place.run('stop', 'all')).stdout).toBe('queue: stopped\nweb: stopped\n')
  for (const pid of [queue?.pid, ...(web?.workers ?? []).map((worker) => worker.pid)])
    expect(isAlive(pid as number)).toBe(false)
  expect((await place.list()).map(({ status }) => status)).toEqual(['stopped', 'stopped'])

  expect((await place.run('logs', 'queue')).stdout).toMatch(/stopped after \d+ jobs/)

  expect(await place.run('start', 'web')).toMatchObject({ code: 0 })
  expect((await get(place.url)).json()).toMatchObject({ env: 'production' })
  expect((await place.run('delete', 'all')).stdout).toBe('queue: deleted\nweb: deleted\n')
  expect(await place.list()).toEqual([])
  await expect(get(place.url)).rejects.toThrow()
})

test('a reload takes the release that the symbolic link leads to, its configuration, and keeps the old one when that fails', async () => {
  const place = await openPlace()
  const release = (name: string, text: string): void => {
    const dir = join(place.dir, 'releases', name)
    mkdirSync(dir, { recursive: true })
    writeFileSync(join(dir, 'app.cjs'), text)
    const entry = { name: 'api', script: 'app.cjs', instances: 2, env: { RELEASE: name } }
    writeFileSync(
      join(dir, 'ecosystem.config.json'),
      `{ /* as PM2 takes it */ "apps": [${JSON.stringify(entry)},] }`,
    )
  }
  const point = (name: string): void => {
    rmSync(join(place.dir, 'next'), { force: true })
    symlinkSync(join(place.dir, 'releases', name), join(place.dir, 'next'))
    renameSync(join(place.dir, 'next'), join(place.dir, 'current'))
  }
  const withEnv = (version: string): string => appText(version, 'process.env.NODE_ENV = process.env.RELEASE')
  release('one', withEnv('1'))
  point('one')
  expect(await place.run('start', 'current/ecosystem.config.json')).toMatchObject({ code: 0 })
  expect(await place.who()).toMatchObject({ version: '1', env: 'one' })

  release('two', withEnv('2'))
  point('two')
  expect(await place.run('reload', 'api')).toMatchObject({ code: 0 })
  rmSync(join(place.dir, 'releases/one'), { recursive: true })
  expect(await place.who()).toMatchObject({ version: '2', env: 'two' })

  release('bad', 'throw new Error("no database")')
  point('bad')
  const bad = await place.run('reload', 'api')
  expect(bad.code).toBe(1)
  expect(bad.stderr).toMatch(/^as-one: api: reload failed, the old workers stay: worker 0 .*no database/s)
  expect(await place.who()).toMatchObject({ version: '2', env: 'two' })
  writeFileSync(join(place.dir, 'releases/bad/ecosystem.config.json'), '{ "apps": [ }')
  const broken = await place.run('reload', 'api')
  expect(broken.code).toBe(1)
  expect(broken.stderr).toMatch(/the old workers stay: .*ecosystem\.config\.json:1: SyntaxError/)
  expect(await place.who()).toMatchObject({ version: '2', env: 'two' })
})

test('save, a reboot, resurrect: the same apps, numbers and environments, and no secret on the disk', async () => {
  const place = await openPlace({ env: { SECRET: 'geheim-4711' } })
  place.write('app.cjs', appText())
  place.write('idle.cjs', 'setInterval(() => {}, 1000)')
  place.write(
    'ecosystem.config.yaml',
    'apps:\n  - name: api\n    script: app.cjs\n    instances: 1\n    env_staging:\n      NODE_ENV: staging\n',
  )
  expect(await place.run('start', 'ecosystem.config.yaml', '--env', 'staging')).toMatchObject({ code: 0 })
  expect(await place.run('start', 'idle.cjs', '--name', 'mailer')).toMatchObject({ code: 0 })
  await place.run('scale', 'api', '+1')
  const ready = async (): Promise<boolean> =>
    (await place.list()).every(({ desired, workers }) => {
      return workers.length === desired && workers.every(({ state }) => state === 'ready')
    })
  await until(ready, { what: 'all workers', deadline: 20_000, every: LOOK_EVERY_MS })
  expect(await place.run('save')).toMatchObject({ code: 0, stdout: expect.stringContaining('saved 2 apps') })
  expect(statSync(join(place.state, 'as-one/saved.json')).mode & 0o777).toBe(0o600)

  const before = await place.list()
  // A worker whose primary has just been killed may be gone before its turn comes.
  for (const { pid, workers } of before)
    for (const each of [pid, ...workers.map((worker) => worker.pid)]) sendSignal(each, 'SIGKILL')
  expect((await place.list()).map(({ status }) => status)).toEqual(['died', 'died'])

  expect(await place.run('resurrect')).toMatchObject({ code: 0 })
  const after = await place.list()
  const facts = (apps: typeof after): object[] =>
    apps.map(({ name, status, desired, env, mode }) => ({ name, status, desired, env, mode }))
  expect(facts(after)).toEqual(facts(before))
  expect(after.map(({ desired }) => desired)).toEqual([2, 1])
  expect(await place.who()).toMatchObject({ env: 'staging' })
  for (const file of ['saved.json', 'apps/api/app.json'])
    expect(readFileSync(join(place.state, 'as-one', file), 'utf8')).not.toContain('geheim')
})

test('several apps in the foreground: prefixed lines, one that is killed comes back, SIGTERM ends all', async () => {
  const place = await openPlace()
  copyExample(place, 'pm2')
  const run = place.spawn(['run', 'ecosystem.config.cjs'], {
    env: { NODE_ENV: undefined, REDIS_URL: 'redis://127.0.0.1:1' },
  })
  // REDIS_URL names one that is not there: said, and the end.
  expect(await run.exit).toMatchObject({ code: 1 })
  expect(run.stderr()).toMatch(/did not start/)
  await until(() => run.tree().length === 0, { what: 'nothing to be left of it' })

  const again = place.spawn(['run', 'ecosystem.config.cjs'])
  await again.waitFor(/2 apps running: web, queue/, 30_000)
  await again.waitFor(/^\[queue:0\] .*job 1$/m)
  const pidOf = async (): Promise<number | undefined> =>
    (await place.list()).find(({ name }) => name === 'queue')?.pid
  const killed = (await pidOf()) as number
  process.kill(killed, 'SIGKILL')
  await again.waitFor(/queue: its primary has ended \(SIGKILL\)/)
  await until(async () => ![undefined, killed].includes(await pidOf()), {
    what: 'another primary',
    every: LOOK_EVERY_MS,
    deadline: 20_000,
  })
  again.kill('SIGTERM')
  expect(await again.exit).toMatchObject({ code: 0 })
  await until(() => again.tree().length === 0, { what: 'nothing to be left running' })
  expect(existsSync(join(place.state, 'as-one/apps/web/control'))).toBe(false)
})
