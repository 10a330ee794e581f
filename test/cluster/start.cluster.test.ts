import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer } from 'node:http'
import net from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { isAlive, until } from '../helpers/fork.ts'
import { get } from '../helpers/http.ts'
import { fixture, spawnCluster, startCluster, type Who } from './start-cluster.ts'

test('workers answer in turn, with dense indexes, and see nothing of our channel', async () => {
  const cluster = await startCluster({
    options: { workers: 3, env: { EXTRA: 'of the options' } },
    args: ['--own', 'argument'],
  })
  const answers: Who[] = []
  for (let i = 0; i < 12; i++) answers.push(await cluster.who())
  const pids = answers.map(({ pid }) => pid)
  expect(new Set(pids).size).toBe(3)
  expect(pids.slice(3)).toEqual(pids.slice(0, 9)) // round robin: every third connection, the same worker
  expect(new Set(answers.map(({ index }) => index))).toEqual(new Set(['0', '1', '2']))
  for (const { index, instance } of answers) expect(instance).toBe(index)
  expect(new Set(await cluster.pids())).toEqual(new Set(pids))

  const env = await cluster.ask<{
    names: string[]
    ofChild: string
    argv: string[]
    main: string
    extra: string
  }>('/env')
  expect(env.names.filter((name) => name.startsWith('AS_ONE_') && !name.startsWith('AS_ONE_TEST'))).toEqual([
    'AS_ONE_WORKER',
  ])
  expect(env.ofChild).toMatch(/^AS_ONE_WORKER=\d$/m)
  expect(env.ofChild).not.toContain('AS_ONE_CHANNEL')
  expect(env.argv).toEqual(['--own', 'argument'])
  expect(env.main).toBe(fixture('server.mjs'))
  expect(env.extra).toBe('of the options')

  cluster.primary.kill('SIGTERM')
  expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
  expect(cluster.primary.tree()).toEqual([])
  expect(cluster.primary.stderr()).toBe('')
})

test('a process that opens no connection of its own does not load ioredis', () => {
  const loaded = (body: string): boolean => {
    const script = `${body}
      const { cache } = (await import('node:module')).createRequire(import.meta.url)
      console.log(Object.keys(cache).some((file) => file.includes('/ioredis/')))
      process.exit()`
    const root = fileURLToPath(new URL('../..', import.meta.url))
    const args = ['--import', './dist/cluster/agent.js', '--input-type=module', '-e', script]
    return execFileSync(process.execPath, args, { cwd: root, encoding: 'utf8' }) === 'true\n'
  }
  expect(loaded("await import('as-one')")).toBe(false)
  expect(loaded("const { sharedCache } = await import('as-one'); sharedCache()")).toBe(true) // no request waits for it
})

test.each([
  ['an app', {}],
  ['a server', { AS_SERVER: '1' }],
])('%s in the same file', async (_name, env) => {
  const cluster = await startCluster({ script: fixture('same-file.mjs'), env })
  const first = await cluster.ask<{ pid: number; main: boolean }>('/')
  const second = await cluster.ask<{ pid: number; main: boolean }>('/')
  expect([first.main, second.main]).toEqual([true, true])
  expect(new Set([first.pid, second.pid, cluster.primary.pid]).size).toBe(3)
})

test('CommonJS with require', async () => {
  const cluster = await startCluster({ script: fixture('commonjs.cjs'), args: ['x'] })
  const first = await cluster.ask<{ pid: number; main: boolean; argv: string[] }>('/')
  expect(first).toMatchObject({ main: true, argv: ['x'] })
  expect((await cluster.ask<Who>('/')).pid).not.toBe(first.pid)
})

test('a second call in a worker is refused and harms nobody', async () => {
  const cluster = await startCluster({ script: fixture('same-file.mjs'), env: { TWICE: '1' } })
  await cluster.primary.waitFor(/second call: ERR_AS_ONE_OPTIONS runCluster has already been called/)
  await cluster.ask('/')
})

test('port 0 is one free port for all', async () => {
  const cluster = await startCluster({ options: { port: 0, workers: 3 } })
  const serving = await cluster.primary.waitFor(() => {
    const lines = cluster.primary.lines.filter((line) => line.startsWith('serving '))
    return (
      lines.length === 3 && lines.map((line) => JSON.parse(line.slice(8)) as { pid: number; port: number })
    )
  })
  const [{ port } = { port: 0 }] = serving
  expect(port).toBeGreaterThan(0)
  expect(serving.map((each) => each.port)).toEqual([port, port, port])
  const answered = new Set<number>()
  for (let i = 0; i < 3; i++)
    answered.add((await get(`http://127.0.0.1:${port}/`)).json<{ pid: number }>().pid)
  expect(answered.size).toBe(3)
})

test('a unix socket, also after a primary that was killed', async () => {
  const socketPath = join(tempDir(), 'app.sock')
  const ask = async (): Promise<number> => {
    const socket = net.connect(socketPath)
    socket.write('GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
    let text = ''
    for await (const chunk of socket) text += chunk
    return Number(/"pid":(\d+)/.exec(text)?.[1])
  }
  const cluster = await startCluster({ options: { socketPath } })
  expect(await ask()).not.toBe(await ask())
  cluster.primary.kill('SIGKILL')
  await cluster.primary.exit
  expect(existsSync(socketPath)).toBe(true)
  const next = await startCluster({ options: { socketPath } })
  expect(await next.pids()).toContain(await ask())
  next.primary.kill('SIGTERM')
  expect(await next.primary.exit).toEqual({ code: 0, signal: null })
  expect(existsSync(socketPath)).toBe(false)
})

test("balance 'os': workers share the listening socket", async () => {
  const cluster = await startCluster({ options: { balance: 'os' } })
  const pids = await cluster.pids()
  expect(pids).toContain((await cluster.who()).pid)
})

describe('inline', () => {
  const start = () => startCluster({ script: fixture('inline.mjs'), options: { workers: 'inline' } })

  test('serves in the process itself, as its own hub, and drains at SIGTERM', async () => {
    const cluster = await start()
    const { primary } = cluster
    expect(primary.messages).toContainEqual({ started: true, role: 'worker', index: 0 })
    const reply = await cluster.ask<{ pid: number; members: number }>('/')
    expect(reply).toEqual({ pid: primary.pid, members: 1 })
    const inFlight = cluster.ask<Who>('/')
    await until(async () => (await openRequests(cluster.port)) > 0, { what: 'the request to be sent' })
    primary.kill('SIGTERM')
    expect((await inFlight).pid).toBe(primary.pid)
    expect(await primary.exit).toEqual({ code: 0, signal: null })
    expect(primary.stdout()).toContain('shut down')
  })

  test('says why it cannot start, in one line', async () => {
    const taken = createServer().listen(0)
    await once(taken, 'listening')
    try {
      const { port } = taken.address() as net.AddressInfo
      const { primary } = await spawnCluster({
        script: fixture('inline.mjs'),
        options: { workers: 'inline', port },
      })
      expect(await primary.exit).toEqual({ code: 1, signal: null })
      expect(primary.stderr()).toMatch(/^as-one: port \d+ is in use.*\n$/)
    } finally {
      taken.close()
    }
  })
})

test("a worker of somebody else's primary serves in place", async () => {
  const cluster = await spawnCluster({ script: fixture('foreign-cluster.mjs') })
  const { primary } = cluster
  await primary.waitFor(() => primary.messages.filter((message) => message === 'serving').length === 2)
  const first = (await cluster.get('/')).json<{ index: number; pid: number }>()
  const second = (await cluster.get('/')).json<{ index: number; pid: number }>()
  expect([first.index, second.index].sort()).toEqual([0, 1])
  expect(first.pid).not.toBe(second.pid)
  primary.kill('SIGTERM')
  await primary.exit
  await until(() => !isAlive(first.pid) && !isAlive(second.pid), { what: 'its workers to end with it' })
})

/** Connections to a port that the server side has, seen from the kernel. */
async function openRequests(port: number): Promise<number> {
  const { readFileSync } = await import('node:fs')
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  return ['tcp', 'tcp6']
    .flatMap((file) => readFileSync(`/proc/net/${file}`, 'utf8').split('\n'))
    .filter((line) => new RegExp(`^ *\\d+: [0-9A-F]+:${hex} [0-9A-F:]+ 01`).test(line)).length
}
