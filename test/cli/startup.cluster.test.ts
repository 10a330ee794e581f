import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { tempDir, track } from '../helpers/cleanup.ts'
import { until } from '../helpers/fork.ts'
import { appText, openPlace } from './as-one.ts'

const has = (command: string): boolean => spawnSync('sh', ['-c', `command -v ${command}`]).status === 0

describe('as-one startup', () => {
  test('writes a unit of the right kind, and removes it', async () => {
    const place = await openPlace()
    const dir = tempDir()
    const wrote = await place.run('startup', '--dir', dir, '--user', 'root', '--home', '/root')
    const path = join(dir, 'as-one-root.service')
    expect(wrote).toEqual({ code: 0, stdout: `wrote ${path}\n`, stderr: '' })
    const unit = readFileSync(path, 'utf8')
    for (const line of [
      'Type=notify',
      'NotifyAccess=all',
      'KillMode=mixed',
      'ExecReload=/bin/kill -HUP $MAINPID',
      'User=root',
    ])
      expect(unit.split('\n')).toContain(line)
    expect(unit).toContain(`Environment="XDG_STATE_HOME=${place.state}"`)
    expect(statSync(path).mode & 0o777).toBe(0o644)
    expect((await place.run('startup', '--print', '--user', 'root', '--home', '/root')).stdout).toBe(unit)
    expect(await place.run('startup', '--dir', dir, '--user', 'a b')).toMatchObject({
      code: 1,
      stderr: "as-one: startup: 'a b' is no user name\n",
    })
    await place.run('startup', '--dir', dir, '--user', 'root', '--remove')
    expect(existsSync(path)).toBe(false)
  })

  test.skipIf(!has('systemd-analyze'))(
    'systemd takes it (skipped without systemd-analyze, Debian package systemd)',
    async () => {
      const place = await openPlace()
      const dir = tempDir()
      await place.run('startup', '--dir', dir, '--user', 'root', '--home', '/root')
      const verify = spawnSync('systemd-analyze', ['verify', join(dir, 'as-one-root.service')], {
        encoding: 'utf8',
      })
      expect({
        status: verify.status,
        about: verify.stderr.split('\n').filter((line) => line.includes('as-one')),
      }).toEqual({ status: 0, about: [] })
    },
  )
})

/** sd_notify(3): a datagram socket, which Node cannot open. Prints what it receives. */
const RECEIVER = `import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print('bound', flush=True)
while True: print(s.recv(4096).decode().replace('\\n', ' '), flush=True)`

const canNotify = has('python3') && has('systemd-notify')

test.skipIf(!canNotify)(
  'resurrect --foreground tells systemd when it is ready, and ends what it has started (skipped without python3 and systemd-notify)',
  async () => {
    const place = await openPlace()
    place.write(
      'app.cjs',
      appText('1', "if (process.env.NOTIFY_SOCKET) throw new Error('it is not for workers')"),
    )
    expect(await place.run('start', 'app.cjs', '-i', '2')).toMatchObject({ code: 0 })
    expect(await place.run('save')).toMatchObject({ code: 0 })
    await place.run('stop', 'all')

    const socket = join(place.dir, 'notify')
    const receiver = spawn('python3', ['-c', RECEIVER, socket], { stdio: ['ignore', 'pipe', 'inherit'] })
    track({
      async [Symbol.asyncDispose]() {
        receiver.kill('SIGKILL')
      },
    })
    let received = ''
    receiver.stdout.on('data', (chunk: Buffer) => {
      received += chunk.toString()
    })
    await once(receiver.stdout, 'data')
    const unit = place.spawn(['resurrect', '--foreground'], { env: { NOTIFY_SOCKET: socket } })
    await until(() => received.includes('READY=1'), { what: 'READY=1', deadline: 30_000 })
    expect(received).toContain('STATUS=1 app running')
    expect(await place.list()).toMatchObject([{ name: 'app', status: 'online', desired: 2 }])
    expect(await place.who()).toMatchObject({ version: '1' })

    place.write('app.cjs', appText('2'))
    unit.kill('SIGHUP')
    await until(async () => (await place.who()).version === '2', { what: 'the reload', deadline: 30_000 })
    unit.kill('SIGTERM')
    expect(await unit.exit).toMatchObject({ code: 0 })
    await until(() => unit.tree().length === 0, { what: 'nothing to be left running' })
    await until(() => received.includes('STOPPING=1'), { what: 'STOPPING=1' })
  },
)

test.skipIf(!canNotify)('run tells systemd too (skipped without python3 and systemd-notify)', async () => {
  const place = await openPlace()
  place.write('app.cjs', appText())
  const socket = join(place.dir, 'notify')
  const receiver = spawn('python3', ['-c', RECEIVER, socket], { stdio: ['ignore', 'pipe', 'inherit'] })
  let received = ''
  receiver.stdout.on('data', (chunk: Buffer) => {
    received += chunk.toString()
  })
  await once(receiver.stdout, 'data')
  const run = place.spawn(['run', 'app.cjs'], { env: { NOTIFY_SOCKET: socket } })
  await until(() => received.includes('READY=1'), { what: 'READY=1', deadline: 30_000 })
  run.kill('SIGTERM')
  expect(await run.exit).toMatchObject({ code: 0 })
  receiver.kill('SIGKILL')
})
