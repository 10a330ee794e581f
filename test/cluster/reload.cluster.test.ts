import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { isAlive, until } from '../helpers/fork.ts'
import { steadyLoad } from '../helpers/http.ts'
import { isLong, long } from '../helpers/long.ts'
import { startCluster, type TestCluster, workersOf, writeApp } from './start-cluster.ts'

const quick = { drain: { linger: '200ms' } }

/** Keep-alive and fresh connections at once, until stopped. */
function mixedLoad(cluster: TestCluster): { stop(): Promise<{ ok: number; failures: unknown[] }> } {
  const url = `${cluster.url}/slow?ms=20`
  const loads = [
    steadyLoad({ url, clients: 4, keepAlive: true }),
    steadyLoad({ url, clients: 4 }),
    steadyLoad({ url: `${cluster.url}/slow?ms=300`, clients: 2, keepAlive: true }),
  ]
  return {
    async stop() {
      const results = await Promise.all(loads.map((load) => load.stop()))
      return {
        ok: results.reduce((sum, { ok }) => sum + ok, 0),
        failures: results.filter(({ failed }) => failed > 0).map(({ reasons }) => reasons),
      }
    },
  }
}

test('under load every worker is replaced, again and again, without a failed request', async () => {
  const workers = 4
  const reloads = long(2, 25)
  const cluster = await startCluster({ options: { workers, ...(isLong ? {} : quick) } })
  const load = mixedLoad(cluster)
  const seen = new Set(await cluster.pids())
  for (let reload = 1; reload <= reloads; reload++) {
    await cluster.tell('reload')
    const { generation, draining, workers: slots } = await cluster.status()
    expect([generation, draining]).toEqual([reload + 1, 0])
    for (const { pid } of slots) seen.add(pid)
  }
  const { ok, failures } = await load.stop()
  expect(failures).toEqual([])
  expect(ok).toBeGreaterThan(reloads * 20)
  expect(seen.size).toBe(workers * (reloads + 1))
  const exits = cluster.events('worker-exited').map(({ exit }) => exit)
  expect(exits).toEqual(Array(workers * reloads).fill({ code: 0, signal: null, forced: false }))
  expect((await cluster.status()).workers.map(({ restarts }) => restarts)).toEqual([0, 0, 0, 0])
  expect(cluster.primary.stderr()).toBe('')
}, 600_000)

const brokenVersions: [string, string, RegExp][] = [
  [
    'throws at import',
    "throw new Error('no such table')",
    /^reload failed, the old workers stay: worker 0 \(pid \d+\) exited with code 1 before it was ready: Error: no such table\n.*app\.mjs/s,
  ],
  [
    'dies of an error of its own',
    "setImmediate(() => { throw new Error('late') }); await new Promise(() => {})",
    /exited with code 1 before it was ready: .*Error: late/s,
  ],
  ['exits 0', 'process.exit(0)', /exited with code 0 before it was ready$/],
  [
    'says why and exits',
    "console.error('license expired'); process.exit(3)",
    /exited with code 3 before it was ready: license expired$/,
  ],
  ['never listens', 'await new Promise(() => {})', /was not ready within 5000 ms \(readyTimeout\)/],
]

test('of a version that does not come up one worker is started; the old ones stay, and a later good one is taken', async () => {
  const app = join(tempDir(), 'app.mjs')
  writeApp(app, 'good')
  const cluster = await startCluster({ app, options: { readyTimeout: '5s', ...quick } })
  const before = await cluster.pids()
  const load = mixedLoad(cluster)
  for (const [name, body, message] of brokenVersions) {
    const exits = cluster.events('worker-exited').length
    const words = cluster.primary.stderr().length
    writeApp(app, name, body)
    const error = await cluster.tell('reload').catch((reason: unknown) => reason)
    expect(error, name).toMatchObject({ code: 'ERR_AS_ONE_RELOAD' })
    expect((error as Error).message).toMatch(message)
    expect(await cluster.pids(), name).toEqual(before)
    expect((await cluster.who()).version).toBe('good')
    expect(cluster.primary.stderr().slice(words)).toMatch(/^as-one: reload failed, the old workers stay: /m)
    expect(cluster.events('worker-exited')).toHaveLength(exits + 1) // the canary, and no other
  }
  expect(cluster.primary.stderr()).not.toContain('next attempt')

  writeApp(app, 'better')
  await cluster.tell('reload')
  const { failures } = await load.stop()
  expect(failures).toEqual([])
  for (const pid of await cluster.pids()) expect(before).not.toContain(pid)
  expect((await cluster.who()).version).toBe('better')
})

test('a worker that crashes during a reload does not hold it up', async () => {
  const cluster = await startCluster({ options: { ...quick, workers: 3, backoff: { stopExitCodes: [78] } } })
  const reloading = cluster.tell('reload')
  await cluster.get('/exit?code=78').catch(() => {}) // even by a code after which it would be parked
  await reloading
  expect((await cluster.status()).workers.map(({ generation, state }) => [generation, state])).toEqual(
    Array(3).fill([2, 'ready']),
  )
})

test('a version that fails in the last slot only leaves the old one everywhere', async () => {
  const app = join(tempDir(), 'app.mjs')
  writeApp(app, '1')
  const cluster = await startCluster({ app, options: { ...quick, workers: 3 } })
  const before = await cluster.pids()
  const load = mixedLoad(cluster)
  writeApp(app, '2', "if (process.env.AS_ONE_WORKER === '2') throw new Error('not as the third')")
  await expect(cluster.tell('reload')).rejects.toMatchObject({
    code: 'ERR_AS_ONE_RELOAD',
    message: expect.stringMatching(/the old workers stay: worker 2 .*not as the third/s),
  })
  expect(await cluster.pids()).toEqual(before)
  await until(async () => (await cluster.status()).draining === 0, { what: 'the new ones to go' })
  for (let i = 0; i < 6; i++) expect((await cluster.who()).version).toBe('1')
  expect((await load.stop()).failures).toEqual([]) // those that the new ones had begun included
})

describe('one cluster, whose app becomes another version again and again', () => {
  let app: string
  let cluster: TestCluster
  beforeAll(async () => {
    app = join(tempDir(), 'app.mjs')
    writeApp(app, '1')
    cluster = await startCluster({ app, options: quick })
  })

  test('reloads asked for during a reload are one more, after it', async () => {
    const { generation: before } = await cluster.status()
    writeApp(app, '2')
    const first = cluster.tell('reload')
    const others = [cluster.tell('reload'), cluster.tell('reload')]
    await first
    await Promise.all(others)
    expect(await cluster.status()).toMatchObject({
      generation: before + 2,
      draining: 0,
      workers: [{ generation: before + 2 }, { generation: before + 2 }],
    })
    expect((await cluster.who()).version).toBe('2')
  })

  test('a reload that fails does not take the one that waits for it along', async () => {
    const { generation: before } = await cluster.status()
    // Broken for whoever loads it first, as a deploy that is finished meanwhile.
    writeApp(
      app,
      '3',
      `import { existsSync, writeFileSync } from 'node:fs'
      const loaded = import.meta.filename + '.loaded'
      if (!existsSync(loaded)) {
        writeFileSync(loaded, '')
        throw new Error('half written')
      }`,
    )
    const failing = cluster.tell('reload').catch((reason: unknown) => reason)
    await cluster.tell('reload')
    expect(await failing).toMatchObject({ code: 'ERR_AS_ONE_RELOAD' })
    expect(await cluster.status()).toMatchObject({
      generation: before + 2,
      workers: [{ generation: before + 2 }, { generation: before + 2 }],
    })
    expect((await cluster.who()).version).toBe('3')
  })

  test('SIGHUP reloads; one that fails is a line on stderr, and the primary goes on', async () => {
    const { generation: before } = await cluster.status()
    writeApp(app, '4')
    cluster.primary.kill('SIGHUP')
    await until(async () => (await cluster.who()).version === '4', { what: 'version 4' })
    await until(
      async () => {
        const { draining, workers } = await cluster.status()
        return draining === 0 && workers.every(({ generation }) => generation === before + 1)
      },
      { what: 'the end of the first reload' },
    )
    writeApp(app, '5', "throw new Error('broken')")
    cluster.primary.kill('SIGHUP')
    await cluster.primary.waitFor(/^as-one: reload failed, the old workers stay: .*Error: broken/m)
    expect((await cluster.who()).version).toBe('4')
    expect(isAlive(cluster.primary.pid)).toBe(true)
  })

  test('scaling during a reload: all slots end up with the new version', async () => {
    writeApp(app, 'good')
    const before = await cluster.pids()
    const { generation: first } = await cluster.status()
    const up = cluster.tell('reload')
    await cluster.tell('scale', 4)
    await up
    await until(
      async () => (await cluster.status()).workers.filter(({ state }) => state === 'ready').length === 4,
      {
        what: 'four workers',
      },
    )
    expect((await cluster.status()).workers.map(({ generation }) => generation)).toEqual(
      Array(4).fill(first + 1),
    )

    const down = cluster.tell('reload')
    await cluster.tell('scale', 1)
    await down
    const { generation, workers, draining } = await cluster.status()
    expect([generation, workers.length, workers[0]?.generation, draining]).toEqual([
      first + 2,
      1,
      first + 2,
      0,
    ])
    expect(before).not.toContain(workers[0]?.pid)
    await cluster.tell('scale', 2)
    await until(async () => (await cluster.status()).workers.every(({ state }) => state === 'ready'), {
      what: 'both workers again',
    })
  })

  test('restart: never two versions at once', async () => {
    const before = await cluster.pids()
    const { generation } = await cluster.status()
    const ready = cluster.events('worker-ready').length
    writeApp(app, '6')
    const restarting = cluster.tell('restart')
    await until(() => cluster.events('worker-ready').length > ready, { what: 'the first new one' })
    expect(before.some((pid) => pid !== undefined && isAlive(pid))).toBe(false)
    await restarting
    expect((await cluster.who()).version).toBe('6')
    expect((await cluster.status()).workers.map((worker) => worker.generation)).toEqual(
      Array(2).fill(generation + 1),
    )

    writeApp(app, '7', "throw new Error('broken')")
    await expect(cluster.tell('restart')).rejects.toMatchObject({
      code: 'ERR_AS_ONE_RELOAD',
      message: expect.stringMatching(/^restart failed: worker \d .*Error: broken/s),
    })
    writeApp(app, '8')
    await until(async () => (await cluster.who()).version === '8', {
      what: 'the repaired version',
      deadline: 30_000,
    })
  })

  test('a stop during a reload ends both', async () => {
    const reloading = cluster.tell('reload')
    const failed = expect(reloading).rejects.toMatchObject({ code: 'ERR_AS_ONE_CLOSED' })
    await cluster.tell('stop')
    await failed
    expect(await cluster.primary.exit).toEqual({ code: 0, signal: null })
    expect(cluster.primary.tree()).toEqual([])
  })
})

describe('where there is not memory for both sets of workers', () => {
  const start = (app?: string) =>
    startCluster({
      ...(app !== undefined && { app }),
      options: { ...quick, workers: 3, backoff: { min: 100, max: 200 } },
      env: { NODE_OPTIONS: '--import data:text/javascript,process.availableMemory=()=>0' },
    })

  test('slots are replaced one after the other, under load without a failed request', async () => {
    const cluster = await start()
    const load = mixedLoad(cluster)
    const before = await cluster.pids()
    let most = 0
    let reloading = true
    const reload = cluster.tell('reload').finally(() => {
      reloading = false
    })
    while (reloading) {
      most = Math.max(most, workersOf(cluster.primary.pid).length)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    await reload
    for (const pid of await cluster.pids()) expect(before).not.toContain(pid)
    expect(most).toBe(4) // those there are, and one
    expect((await load.stop()).failures).toEqual([])
  })

  test('a version that does not come up costs nobody; one that fails in a later slot is tried three times, and then told', async () => {
    const app = join(tempDir(), 'app.mjs')
    const failed = join(tempDir(), 'failed')
    writeApp(app, '1')
    const cluster = await start(app)
    const before = await cluster.pids()
    writeApp(app, '2', "throw new Error('broken')")
    await expect(cluster.tell('reload')).rejects.toMatchObject({
      message: expect.stringMatching(/^reload failed, the old workers stay: .*Error: broken/s),
    })
    expect(await cluster.pids()).toEqual(before)

    // What fails once, for want of memory for one, does not leave two versions.
    const oneTime = `import { existsSync, writeFileSync } from 'node:fs'
      if (process.env.AS_ONE_WORKER === '2' && !existsSync(${JSON.stringify(failed)})) {
        writeFileSync(${JSON.stringify(failed)}, '')
        throw new Error('for the moment')
      }`
    writeApp(app, '3', oneTime)
    await cluster.tell('reload')
    for (let i = 0; i < 6; i++) expect((await cluster.who()).version).toBe('3')

    writeApp(app, '4', "if (process.env.AS_ONE_WORKER === '2') throw new Error('not as the third')")
    const exits = () => cluster.events('worker-exited').filter(({ exit }) => exit?.code === 1).length
    const soFar = exits()
    await expect(cluster.tell('reload')).rejects.toMatchObject({
      code: 'ERR_AS_ONE_RELOAD',
      message: expect.stringMatching(
        /^reload failed, 2 of 3 workers run the new version already, the others stay: worker 2 .*not as the third/s,
      ),
    })
    expect(exits() - soFar).toBe(3)
    const versions = new Set<string | undefined>()
    for (let i = 0; i < 6; i++) versions.add((await cluster.who()).version)
    expect(versions).toEqual(new Set(['3', '4']))
    writeApp(app, '5')
    await cluster.tell('reload')
    for (let i = 0; i < 6; i++) expect((await cluster.who()).version).toBe('5')
  })
})
