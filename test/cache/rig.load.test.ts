import { execFile } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { freePort, type NodeProcess, runNode } from '../helpers/fork.ts'
import { isLong, long } from '../helpers/long.ts'
import { fileRng, type Rng } from '../helpers/random.ts'
import { type PrivateRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { startProxy, type TcpProxy } from '../helpers/tcp-proxy.ts'
import { judge, type Verdict, type WorkerLog } from './rig/judge.ts'

const WORKERS = 4
const KEYS = 80
const MAX_STALENESS_MS = 500
const here = (file: string): string => fileURLToPath(new URL(`rig/${file}`, import.meta.url))

interface World {
  server: PrivateRedis
  proxies: TcpProxy[]
  processes: NodeProcess[]
  pids: number[]
}

/** Delays, silence, lost connections, stopped processes, restarts of Redis, until `over` says so; then all is mended. */
async function weather({ server, proxies, processes, pids }: World, rng: Rng, over: () => boolean) {
  while (!over()) {
    const proxy = rng.pick(proxies)
    const direction = rng.pick(['up', 'down', undefined] as const)
    const fault = rng.int(0, 9)
    const stopped = rng.pick([...pids, ...processes.map(({ pid }) => pid)])
    if (fault <= 2) proxy.delay(rng.int(0, 10), rng.int(1, 30), direction)
    else if (fault <= 4) proxy.freeze(direction)
    else if (fault <= 6) proxy.reset()
    else if (fault <= 8) trySignal(stopped, 'SIGSTOP')
    else if (rng.float() < 0.5) await server.restart()
    await sleep(rng.int(20, 1_500))
    trySignal(stopped, 'SIGCONT')
    proxy.unfreeze()
    proxy.delay(0)
    await sleep(rng.int(20, 500))
  }
}

function trySignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // A control may have died of what was done to it; that is counted.
  }
}

async function run(cache: string, rng: Rng, operations: number): Promise<Verdict & { died: number }> {
  const [server, database] = await Promise.all([startRedis(), startRedis()])
  const proxies = await Promise.all([1, 2].map(() => startProxy({ target: { port: server.port } })))
  const out = tempDir()
  const settings = {
    cache,
    namespace: testNamespace(),
    database: database.url,
    workers: WORKERS,
    keys: KEYS,
    operations: Math.ceil(operations / WORKERS),
    seed: rng.int(1, 1_000_000),
    out,
    options: { maxStaleness: MAX_STALENESS_MS },
  }
  const start = async (index: number, script: string): Promise<NodeProcess> => {
    const redis = proxies[index % 2]!.url()
    // Behind a primary the default instance is meant, which knows its Redis.
    const own = script === 'alone.mjs' ? { redis } : { redis, port: await freePort() }
    const first = script === 'alone.mjs' ? index : index * 2
    return runNode(here(script), { env: { RIG: JSON.stringify({ ...settings, ...own, index: first }) } })
  }
  const script = cache === 'as-one' ? 'behind-primary.mjs' : 'alone.mjs'
  const count = cache === 'as-one' ? 2 : WORKERS
  const processes = await Promise.all(Array.from({ length: count }, (_, index) => start(index, script)))
  const said = (word: string): string[] =>
    processes.flatMap(({ lines }) => lines.filter((line) => line.startsWith(word)))
  const dead = (): number => (cache === 'as-one' ? 0 : processes.filter(({ exited }) => exited).length)
  const all = (word: string) => () => said(word).length + dead() >= WORKERS
  const limit = long(180_000, 3_000_000)
  await processes[0]!.waitFor(all('working'), 30_000)
  const pids = said('working').map((line) => Number(line.split(' ')[2]))
  let over = false
  const faults = weather({ server, proxies, processes, pids }, rng.fork('weather'), () => over)
  await processes[0]!.waitFor(all('quiet'), limit).finally(() => {
    over = true
  })
  await faults
  await sleep(2_500) // connections come back, and the bound passes
  writeFileSync(join(out, 'go'), '')
  await processes[0]!.waitFor(() => said('done').length + dead() >= WORKERS, 30_000)
  const logs = Array.from({ length: WORKERS }, (_, index) => join(out, `${index}.json`))
    .filter((file) => existsSync(file))
    .map((file) => JSON.parse(readFileSync(file, 'utf8')) as WorkerLog)
  for (const { exited, exit, lines, stderr } of processes) {
    if (!exited || lines.some((line) => line.startsWith('done'))) continue
    const { code, signal } = await exit
    console.info(
      `[cache] rig, ${cache}: a process ended with ${signal ?? code}: ${stderr().trim().slice(-300)}`,
    )
  }
  for (const each of processes) await each[Symbol.asyncDispose]()
  for (const error of new Set(logs.flatMap(({ fatal }) => fatal)))
    console.info(`[cache] rig, ${cache}: nobody caught ${error}`)
  return { ...judge(logs, MAX_STALENESS_MS), died: WORKERS - logs.length }
}

function report(cache: string, { worstMs, ...counts }: Verdict & { died: number }): void {
  console.info(
    `[cache] rig, ${cache}: worst staleness ${worstMs.toFixed(1)} ms of ${MAX_STALENESS_MS}, ${JSON.stringify(counts)}`,
  )
}

describe('workers behind two hubs, on a bad network, stopped at random', () => {
  const seeds = long([1], [1, 2, 3, 4, 5])

  test.each(seeds)('read nothing older than the bound, round %i', { timeout: 3_600_000 }, async (round) => {
    const verdict = await run('as-one', fileRng().fork(`round ${round}`), long(5_000, 100_000))
    report('as-one', verdict)
    expect(verdict).toMatchObject({ beyond: 0, own: 0, unequal: 0, died: 0 })
    expect(verdict.reads).toBeGreaterThan(verdict.operations / 4)
    expect(verdict.writes).toBeGreaterThan(100)
  })

  // So that it is known that the rig can find something.
  test.runIf(isLong)('controls: bentocache and cacheable', { timeout: 3_600_000 }, async () => {
    const peers = here('peers')
    if (!existsSync(join(peers, 'node_modules'))) await promisify(execFile)('npm', ['ci'], { cwd: peers })
    for (const cache of ['bentocache', 'cacheable']) {
      const verdict = await run(cache, fileRng().fork('round 1'), 20_000)
      report(cache, verdict)
      expect(verdict.beyond + verdict.unequal + verdict.fatal + verdict.died).toBeGreaterThan(0)
    }
  })
})
