import { chmodSync, chownSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { get } from '../helpers/http.ts'
import { appText, openPlace, type Place } from './as-one.ts'

const BROKEN: Readonly<Record<string, [text: string, message: RegExp]>> = {
  'a.config.cjs': [
    'module.exports = {\n  apps: [\n    { name: "x" script: "y" },\n  ],\n}',
    /a\.config\.cjs:3: SyntaxError/,
  ],
  'b.config.mjs': [
    '\nexport default {\n  apps: nothing,\n}',
    /b\.config\.mjs:3: ReferenceError: nothing is not defined/,
  ],
  'c.json': ['{\n  "apps": [\n    { "script": "x" "name": "y" }\n  ]\n}', /c\.json:3: SyntaxError/],
  'd.yaml': ['apps:\n  - name: x\n   script: y\n', /d\.yaml:\d: /],
  'e.config.js': ['require("./gone.js")', /e\.config\.js:1: Error: Cannot find module '\.\/gone\.js'/],
  'f.config.cjs': ['module.exports = 42', /f\.config\.cjs: exports no object with apps/],
  'g.config.cjs': ['module.exports = { app: [] }', /g\.config\.cjs: has no apps/],
  'h.config.cjs': [
    'module.exports = { apps: [{ name: "x" }] }',
    /h\.config\.cjs: apps\[0\]: needs a script|script is missing/,
  ],
  'i.config.cjs': [
    'module.exports = { apps: [{ script: "a.js", instances: "lots", kill_timeout: {} }] }',
    /app 'a': instances must be .*; kill_timeout must be /,
  ],
  'j.config.cjs': [
    'module.exports = { apps: [{ script: "a.js" }, { script: "b/a.js" }] }',
    /two apps have the name 'a'/,
  ],
  'k.config.cjs': ['process.exit(0)', /k\.config\.cjs: ended without exporting/],
}

test('a configuration that is broken or not there: file, line, reason', async () => {
  const place = await openPlace()
  const names = Object.keys(BROKEN)
  for (const name of names) place.write(name, BROKEN[name]?.[0] ?? '')
  const outcomes = await Promise.all(names.map((name) => place.run('start', name)))
  for (const [index, { code, stderr, stdout }] of outcomes.entries()) {
    const name = names[index] as string
    expect({ name, code, stdout }).toEqual({ name, code: 1, stdout: '' })
    expect(stderr).toMatch(BROKEN[name]?.[1] as RegExp)
    expect(stderr.trim().split('\n')).toHaveLength(1)
  }
  const [gone, none, nobody] = await Promise.all([
    place.run('start', 'gone.config.cjs'),
    place.run('start'),
    place.run('start', 'a.config.cjs', '--only', 'x'),
  ])
  expect(gone?.stderr).toMatch(/there is no ecosystem file at gone\.config\.cjs/)
  expect(none?.stderr).toMatch(/name a script or an ecosystem file/)
  expect(nobody?.code).toBe(1)
})

describe('one app', () => {
  async function withApp(): Promise<Place> {
    const place = await openPlace()
    place.write('shop.cjs', appText())
    expect(await place.run('start', 'shop.cjs', '-i', '1')).toMatchObject({ code: 0 })
    return place
  }
  const socketOf = (place: Place): string => join(place.state, 'as-one/apps/shop/control')
  const say = (path: string, text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      let answer = ''
      const socket = createConnection(path, () => socket.write(text))
      socket.on('data', (chunk) => {
        answer += chunk
      })
      // What has been refused is not read to its end: after the answer that is an error of the connection.
      socket.once('error', (error) => answer === '' && reject(error))
      socket.once('close', () => resolve(answer))
    })

  test('unknown names, a second start, strange requests; it serves through all of it', async () => {
    const place = await withApp()
    const outcomes = await Promise.all([
      place.run('reload', 'shpo'),
      place.run('scale', 'shop', 'many'),
      place.run('scale', 'shop', '-5'),
      place.run('start', 'shop.cjs'),
      place.run('run', 'shop.cjs'),
      place.run('rload', 'shop'),
      place.run('logs', 'shop', '--lines', 'x'),
      place.run('frobnicate'),
    ])
    expect(outcomes.map(({ code }) => code)).toEqual([1, 1, 1, 1, 1, 1, 1, 1])
    const errors = outcomes.map(({ stderr }) => stderr)
    expect(errors[0]).toBe("as-one: there is no app 'shpo'; did you mean shop?\n")
    expect(errors[1]).toMatch(/a number, \+N or -N is needed, got 'many'/)
    expect(errors[2]).toMatch(/scale must lead to 1 to 1024 workers, got '-5' with 1 running/)
    expect(errors[3]).toMatch(/shop runs already \(pid \d+\): as-one reload shop/)
    expect(errors[4]).toMatch(/shop runs already/)
    expect(errors[5]).toMatch(/unknown command 'rload' \(Did you mean reload\?\)/)
    expect(errors[6]).toMatch(/--lines must be 0 to 10000/)
    expect(errors[7]).toMatch(/unknown command 'frobnicate'; as-one --help lists them/)

    const path = socketOf(place)
    expect(await say(path, 'hello\n')).toMatch(/"type":"error".*one line of JSON/)
    expect(await say(path, '{"v":2,"command":"stop"}\n')).toMatch(/understands version 1 .*, not 2/)
    expect(await say(path, '{"v":1,"command":"eval"}\n')).toMatch(/command must be one of/)
    expect(await say(path, '{"v":1,"command":"scale","to":"x"}\n')).toMatch(/got 'x' with 1 running/)
    expect(await say(path, 'x'.repeat(70_000))).toMatch(/a request may have 65536 bytes/)
    expect(await place.who()).toMatchObject({ version: '1' })
  })

  test('two starts of one name at once: one of them', async () => {
    const place = await openPlace()
    place.write('shop.cjs', appText())
    const outcomes = await Promise.all(Array.from({ length: 4 }, () => place.run('start', 'shop.cjs')))
    expect(outcomes.map(({ code }) => code).sort()).toEqual([0, 1, 1, 1])
    expect(await place.who()).toMatchObject({ version: '1' })
    expect(await place.list()).toMatchObject([{ name: 'shop', status: 'online' }])
  })

  test('a primary that hangs, one that was killed, a socket that is not ours', async () => {
    const place = await withApp()
    const { pid } = (await place.list())[0] as { pid: number }
    process.kill(pid, 'SIGSTOP')
    expect(await place.list()).toMatchObject([{ status: 'silent' }])
    expect((await place.run('stop', 'shop')).stderr).toMatch(/its primary does not answer/)
    process.kill(pid, 'SIGKILL')
    expect(await place.list()).toMatchObject([{ status: 'died' }])
    expect((await place.run('reload', 'shop')).stderr).toMatch(/shop does not run: as-one start shop/)
    expect(await place.run('start', 'shop')).toMatchObject({ code: 0 }) // takes the dead socket's place

    chmodSync(socketOf(place), 0o666)
    expect(await place.list()).toMatchObject([
      { status: 'refused', reason: expect.stringContaining('is open to others (mode 0666)') },
    ])
    chmodSync(socketOf(place), 0o600)
    if (process.getuid?.() === 0) {
      chownSync(socketOf(place), 65_534, 65_534)
      expect((await place.run('reload', 'shop')).stderr).toMatch(
        /belongs to user id 65534, this process runs as 0: not connected to/,
      )
      chownSync(socketOf(place), 0, 0)
    }
    expect(await place.run('stop', 'shop')).toMatchObject({ code: 0 })
  })
})

test('a full disk under the logs costs lines, not the app; a log file that cannot be opened is an error', async () => {
  const place = await openPlace()
  place.write('chatty.cjs', appText('1', 'setInterval(() => console.log("x".repeat(1000)), 5)'))
  const entry = {
    name: 'chatty',
    script: 'chatty.cjs',
    instances: 1,
    out_file: '/dev/full',
    error_file: 'error.log',
  }
  place.write('ecosystem.config.cjs', `module.exports = [${JSON.stringify(entry)}]`)
  expect(await place.run('start')).toMatchObject({ code: 0 })
  for (let i = 0; i < 5; i++) expect(await place.who()).toMatchObject({ version: '1' })
  expect(await place.run('reload', 'chatty')).toMatchObject({ code: 0 })
  expect(await place.run('delete', 'chatty')).toMatchObject({ code: 0 })
  place.write(
    'ecosystem.config.cjs',
    `module.exports = [${JSON.stringify({ ...entry, out_file: '/proc/nowhere/out.log' })}]`,
  )
  expect(await place.run('start')).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/the log file \/proc\/nowhere\/out\.log cannot be opened/),
  })
})

test('no home, or one that cannot be written: run works and says what is missing, start says what to set', async () => {
  for (const home of [undefined, '/proc']) {
    const place = await openPlace({ env: { XDG_STATE_HOME: undefined, HOME: home } })
    place.write('app.cjs', appText())
    const start = await place.run('start', 'app.cjs')
    expect(start.code).toBe(1)
    expect(start.stderr).toMatch(/^as-one: .*XDG_STATE_HOME.*\n$/)
    const run = place.spawn(['run', 'app.cjs'])
    await run.waitFor(/app runs on 1 worker/, 30_000)
    await run.waitFor(/nobody can list, reload or scale app by name, only by signals: .*XDG_STATE_HOME/)
    expect((await get(place.url)).status).toBe(200)
    run.kill('SIGTERM')
    expect(await run.exit).toMatchObject({ code: 0 })
  }
})

test('a directory in the way that others can write to is refused', async () => {
  const state = tempDir()
  mkdirSync(join(state, 'as-one/apps/app'), { recursive: true, mode: 0o700 })
  chmodSync(join(state, 'as-one'), 0o700)
  chmodSync(join(state, 'as-one/apps'), 0o777)
  const place = await openPlace({ env: { XDG_STATE_HOME: state } })
  place.write('app.cjs', appText())
  expect((await place.run('start', 'app.cjs')).stderr).toMatch(
    /as-one\/apps may be written by others \(mode 0777, expected 0700\)/,
  )
  writeFileSync(join(state, 'as-one/apps/app/app.json'), '{')
  chmodSync(join(state, 'as-one/apps'), 0o700)
  expect((await place.run('restart', 'app')).stderr).toMatch(/cannot read .*app\.json, how app was started/)
  expect(readFileSync(join(state, 'as-one/apps/app/app.json'), 'utf8')).toBe('{')
})
