import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { freePort, isAlive, pidsOf, until } from '../helpers/fork.ts'
import { get } from '../helpers/http.ts'
import { sendSignal, stateOf } from '../helpers/processes.ts'
import { startCluster, whenInFlight, workersOf, writeApp } from './start-cluster.ts'

const quick = { drain: { linger: '200ms' } }

test.runIf(process.getuid?.() === 0)(
  'process 1 of a container: signals work, its dead workers leave no zombie, and it takes all with it',
  async () => {
    const cluster = await startCluster({
      node: 'unshare',
      nodeArgs: ['--pid', '--fork', '--mount-proc', '--kill-child', process.execPath],
      options: quick,
      env: { LOG: '1' },
    })
    expect((await cluster.status()).pid).toBe(1)
    const [primary = 0] = pidsOf({ parent: cluster.primary.pid }) // as seen from outside
    const crashed = workersOf(primary)[0] ?? 0
    sendSignal(crashed, 'SIGKILL')
    await until(() => cluster.events('worker-ready').length === 1, { what: 'the replacement' })
    expect(stateOf(crashed)).toBeUndefined()

    await cluster.tell('reload')
    const reply = cluster.get('/slow?ms=800')
    await whenInFlight(cluster, '/slow?ms=800', 1)
    sendSignal(primary, 'SIGTERM')
    expect((await reply).status).toBe(200)
    expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
    expect(cluster.primary.tree()).toEqual([])
  },
)

test('a new version that listens on another port as well is taken; where it wants a taken one, the old ones stay', async () => {
  const app = join(tempDir(), 'app.mjs')
  const taken = createServer((_req, res) => void res.end('somebody else'))
  taken.listen(await freePort(), '127.0.0.1') // none that an outgoing connection may have once it is given up
  await once(taken, 'listening')
  try {
    const { port } = taken.address() as { port: number }
    const alsoOn = (where: number): string =>
      `import { createServer } from 'node:http'
       await new Promise((resolve, reject) =>
         createServer((_req, res) => res.end('also')).once('error', reject).listen(${where}, '127.0.0.1', resolve))`
    writeApp(app, '1')
    const cluster = await startCluster({ app, options: quick })
    const before = await cluster.pids()
    writeApp(app, '2', alsoOn(port))
    await expect(cluster.tell('reload')).rejects.toMatchObject({
      message: expect.stringMatching(/^reload failed, the old workers stay: .*EADDRINUSE/s),
    })
    expect(await cluster.pids()).toEqual(before)
    expect((await cluster.who()).version).toBe('1')
    taken.closeAllConnections()
    await new Promise((resolve) => taken.close(resolve))
    await cluster.tell('reload')
    expect((await cluster.who()).version).toBe('2')
    expect((await get(`http://127.0.0.1:${port}/`)).body).toBe('also')
  } finally {
    taken.close()
  }
})

test('a port that somebody else takes while no worker is up: said with each attempt, and served again once it is free', async () => {
  const dir = tempDir()
  const [app, held] = [join(dir, 'app.mjs'), join(dir, 'held')]
  writeApp(
    app,
    '1',
    `import { existsSync } from 'node:fs'
    while (existsSync(${JSON.stringify(held)})) await new Promise((resolve) => setTimeout(resolve, 20))`,
  )
  const cluster = await startCluster({
    app,
    options: { ...quick, workers: 1, backoff: { min: 200, max: 200 } },
  })
  const [worker = 0] = await cluster.pids()
  writeFileSync(held, '') // the next one does not listen before the thief does
  sendSignal(worker ?? 0, 'SIGKILL') // with the last worker the primary's socket closes
  await until(() => cluster.events('worker-exited').length === 1, { what: 'the primary to know' })
  const thief = createServer((_req, res) => void res.end('thief'))
  thief.listen(cluster.port)
  await once(thief, 'listening')
  rmSync(held)
  await cluster.primary.waitFor(() => cluster.events('worker-exited').length >= 2, 20_000)
  expect(isAlive(cluster.primary.pid)).toBe(true)
  await until(async () => (await cluster.status()).workers.map(({ state }) => state).join() === 'waiting', {
    what: 'it to wait between two attempts',
  })
  thief.closeAllConnections()
  await new Promise((resolve) => thief.close(resolve))
  await until(() => cluster.who(), { what: 'the cluster to serve again', deadline: 20_000 })
})

test('a worker without a file descriptor left: nobody waits for ever, and it serves again once it has some', async () => {
  const cluster = await startCluster({ options: quick })
  const [worker = 0] = await cluster.pids()
  const limit = (files: string): Buffer =>
    execFileSync('prlimit', ['--pid', String(worker), `--nofile=${files}:`])
  limit('3')
  const replies = await Promise.allSettled(
    Array.from({ length: 8 }, () => cluster.get('/', { timeout: 8_000 })),
  )
  const reasons = replies.map((each) => (each.status === 'fulfilled' ? 'ok' : String(each.reason)))
  expect(reasons.filter((each) => /no complete reply/.test(each))).toEqual([])
  expect(reasons.filter((each) => each === 'ok').length).toBeGreaterThanOrEqual(4) // by the other one
  await new Promise((resolve) => setTimeout(resolve, 1_500)) // it looks at its own memory each second
  expect(isAlive(worker)).toBe(true)
  limit('1000')
  await until(async () => (await cluster.who()).pid === worker, { what: 'it to serve again' })
})
