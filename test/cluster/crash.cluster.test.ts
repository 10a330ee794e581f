import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { isAlive, until } from '../helpers/fork.ts'
import { sendSignal } from '../helpers/processes.ts'
import { startCluster, type TestCluster, whenInFlight, writeApp } from './start-cluster.ts'

/** What the runner itself has said. */
const wordsOf = ({ primary }: TestCluster): string[] =>
  primary
    .stderr()
    .split('\n')
    .filter((line) => line.startsWith('as-one: '))

async function pidOf(cluster: TestCluster, index: number): Promise<number> {
  const pid = (await cluster.pids())[index]
  if (pid === undefined) throw new Error(`slot ${index} is empty`)
  return pid
}

test('a worker that dies is replaced after its backoff, and the others serve meanwhile', async () => {
  const cluster = await startCluster({ options: { workers: 3, backoff: { min: '3s' } } })
  const before = await cluster.pids()
  const killed = await pidOf(cluster, 1)
  sendSignal(killed, 'SIGKILL')
  await until(() => cluster.events('worker-exited').length === 1, { what: 'the primary to know' })
  const [exited] = cluster.events('worker-exited')
  expect(exited).toMatchObject({
    index: 1,
    pid: killed,
    exit: { code: null, signal: 'SIGKILL' },
    restartMs: 3_000,
  })

  const others = new Set<number>()
  for (let i = 0; i < 8; i++) others.add((await cluster.who()).pid)
  expect(others).toEqual(new Set([before[0], before[2]]))
  expect((await cluster.status()).workers[1]).toMatchObject({ index: 1, state: 'waiting', restarts: 1 })

  await until(() => cluster.events('worker-ready').length === 1, { what: 'the replacement' })
  const after = await cluster.pids()
  expect([after[0], after[2]]).toEqual([before[0], before[2]])
  expect(before).not.toContain(after[1])
  expect(wordsOf(cluster)).toEqual([
    `as-one: worker 1 (pid ${killed}) was ended by SIGKILL, next attempt in 3000 ms`,
  ])
})

test('an uncaught error is told by the worker and by the primary', async () => {
  const cluster = await startCluster()
  const { pid } = (await cluster.get('/crash')).json<{ pid: number }>()
  await cluster.primary.waitFor(
    new RegExp(`as-one: worker \\d \\(pid ${pid}\\) exited with code 1, next attempt`),
  )
  expect(cluster.primary.stderr()).toContain('Error: crashed as asked')
  await until(() => cluster.events('worker-ready').length === 1, { what: 'the replacement' })
})

test('a crash loop backs off, is told once a minute, and costs the others nothing', async () => {
  const app = join(tempDir(), 'app.mjs')
  const broken = join(tempDir(), 'broken')
  writeApp(
    app,
    '1',
    `import { existsSync } from 'node:fs'
    if (process.env.AS_ONE_WORKER === '1')
      setInterval(() => existsSync(${JSON.stringify(broken)}) && process.exit(3), 100)`,
  )
  const cluster = await startCluster({ app, options: { backoff: { min: 50, max: 400 } } })
  const [healthy] = await cluster.pids()
  writeFileSync(broken, '')
  const exits = () => cluster.events('worker-exited')
  await until(() => exits().length >= 5, { what: 'five crashes', deadline: 20_000 })
  exits()
    .slice(0, 5)
    .forEach(({ index, restartMs = 0 }, failures) => {
      expect(index).toBe(1)
      expect(restartMs).toBeGreaterThanOrEqual(50)
      expect(restartMs).toBeLessThanOrEqual(Math.min(400, 50 * 2 ** failures))
    })
  expect(wordsOf(cluster)).toHaveLength(1)
  expect(await pidOf(cluster, 0)).toBe(healthy)

  writeApp(app, '2') // whoever repairs the app need not touch the primary
  await until(async () => (await cluster.status()).workers[1]?.state === 'ready', { what: 'slot 1 to serve' })
  // Its pid from its own answer: one more of the broken ones may have been ready for a moment.
  const repaired = await until(
    async () => {
      const { version, pid } = await cluster.who()
      return version === '2' && pid
    },
    { what: 'the repaired worker to answer' },
  )
  await sleep(300) // longer than the life of a broken one
  expect(isAlive(repaired)).toBe(true)
})

test('a slot that fails its first boot is told with the reason, and the start goes on', async () => {
  const app = join(tempDir(), 'app.mjs')
  writeApp(app, '1', "if (process.env.AS_ONE_WORKER === '1') throw new Error('not on this one')")
  const cluster = await startCluster({ app, options: { backoff: { min: '20s' } } })
  expect((await cluster.status()).workers.map(({ state }) => state)).toEqual(['ready', 'waiting'])
  expect(wordsOf(cluster)).toHaveLength(1)
  expect(wordsOf(cluster)[0]).toMatch(
    /^as-one: worker 1 \(pid \d+\) exited with code 1, next attempt in 20000 ms: Error: not on this one$/,
  )
  expect((await cluster.who()).index).toBe('0')
  cluster.primary.kill('SIGTERM') // a backoff of 20 s is no reason to wait
  expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
})

test('a stop exit code parks the slot, until the next scale or reload', async () => {
  const cluster = await startCluster({ options: { workers: 2, backoff: { stopExitCodes: [78] } } })
  const parkOne = async (): Promise<number> => {
    const before = cluster.events('worker-parked').length
    await cluster.get('/exit?code=78').catch(() => {}) // it exits instead of answering
    await until(() => cluster.events('worker-parked').length > before, { what: 'the slot to be parked' })
    return cluster.events('worker-parked').at(-1)?.index ?? -1
  }
  const states = async () => (await cluster.status()).workers.map(({ state }) => state)

  const index = await parkOne()
  expect((await states())[index]).toBe('parked')
  expect(wordsOf(cluster)).toEqual([
    expect.stringMatching(
      /^as-one: worker \d \(pid \d+\) exited with code 78, one of backoff\.stopExitCodes/,
    ),
  ])
  expect((await cluster.who()).index).not.toBe(String(index))

  await cluster.tell('scale', 2)
  await until(async () => (await states()).join() === 'ready,ready', {
    what: 'the slot to be filled by scale',
  })
  await parkOne()
  await cluster.tell('reload')
  expect(await states()).toEqual(['ready', 'ready'])
})

test('SIGTERM to one worker replaces it first, then lets it finish', async () => {
  const cluster = await startCluster({ options: { workers: 1 }, env: { LOG: '1' } })
  const old = await pidOf(cluster, 0)
  const inFlight = cluster.get('/early-headers', { timeout: 60_000 })
  await whenInFlight(cluster, '/early-headers', 1)
  sendSignal(old, 'SIGTERM')
  await until(() => cluster.events('worker-ready').length === 1, { what: 'the replacement to be ready' })
  expect(isAlive(old)).toBe(true)
  const next = await pidOf(cluster, 0)
  expect(next).not.toBe(old)
  await until(async () => (await cluster.who()).pid === next, { what: 'the replacement to answer' })
  sendSignal(old, 'SIGUSR2') // which its request has waited for, however long the replacement took
  expect((await inFlight).json<{ pid: number }>().pid).toBe(old)
  await until(() => cluster.events('worker-exited').length > 0, { what: 'the old worker to go' })
  expect(cluster.events('worker-exited')).toMatchObject([{ pid: old, exit: { code: 0, forced: false } }])
  expect((await cluster.status()).workers).toMatchObject([{ restarts: 0 }])
  expect(wordsOf(cluster)).toEqual([])
})

test('a replacement that does not start is tried again with backoff, while the old worker serves', async () => {
  const app = join(tempDir(), 'app.mjs')
  writeApp(app, '1')
  const cluster = await startCluster({ app, options: { workers: 1, backoff: { min: 200, max: 800 } } })
  const old = await pidOf(cluster, 0)
  writeApp(app, '2', "throw new Error('broken')")
  sendSignal(old, 'SIGTERM')
  await until(() => cluster.events('worker-exited').length >= 3, { what: 'three attempts', deadline: 20_000 })
  for (const { restartMs } of cluster.events('worker-exited')) expect(restartMs).toBeGreaterThanOrEqual(200)
  expect((await cluster.who()).version).toBe('1')
  expect((await cluster.status()).workers).toMatchObject([{ state: 'ready', pid: old }])
  writeApp(app, '3')
  await until(async () => (await cluster.who()).version === '3', {
    what: 'the good replacement',
    deadline: 20_000,
  })
  await until(() => !isAlive(old), { what: 'the old worker to go' })
})

test('a machine without room for another process: told, survived, tried again', async () => {
  const cluster = await startCluster({ options: { backoff: { min: 100, max: 300 } } })
  const limit = (files: string): Buffer =>
    execFileSync('prlimit', ['--pid', String(cluster.primary.pid), `--nofile=${files}:`])
  limit('10')
  sendSignal(await pidOf(cluster, 1), 'SIGKILL')
  await until(() => cluster.events('worker-exited').length >= 3, { what: 'attempts that fail' })
  expect((await cluster.status()).workers[0]?.state).toBe('ready')
  limit('1000')
  await until(async () => (await cluster.status()).workers[1]?.state === 'ready', { what: 'slot 1 to serve' })
})
