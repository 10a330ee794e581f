import { expect, test } from 'vitest'
import { createContext } from '../../src/context.ts'
import type { RateLimiterOptions } from '../../src/rate-limit/index.ts'
import { isAlive, type NodeProcess, runNode } from '../helpers/fork.ts'
import { long } from '../helpers/long.ts'
import { fileRng } from '../helpers/random.ts'
import { startRedis, startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { type Admission, mostWithin } from './admissions.ts'
import { ttls } from './app.ts'

const perMs = 1_000

interface Bounded {
  options: RateLimiterOptions & { eager?: number }
  /** Most that may be admitted within `t` ms; undefined where nothing is documented for it. */
  most(t: number): number
}

const rate = (limit: number, t: number): number => (limit * t) / perMs

const cases: Record<string, Bounded> = {
  'sliding-window': {
    options: { name: 's', limit: 60, per: perMs },
    most: (t) => 60 * Math.ceil(t / perMs),
  },
  'sliding-window, leases': {
    options: { name: 'sl', limit: 300, per: perMs, lease: true, eager: 40 },
    most: (t) => 300 * Math.ceil(t / perMs),
  },
  gcra: {
    options: { name: 'g', limit: 60, per: perMs, burst: 20, algorithm: 'gcra' },
    most: (t) => 20 + rate(60, t),
  },
  'gcra, leases': {
    options: { name: 'gl', limit: 300, per: perMs, burst: 100, algorithm: 'gcra', lease: true, eager: 40 },
    most: (t) => 100 + rate(300, t + perMs / 10),
  },
  'fixed-window': {
    options: { name: 'f', limit: 60, per: perMs, algorithm: 'fixed-window' },
    most: (t) => 60 * (1 + Math.ceil(t / perMs)),
  },
  'fixed-window, leases': {
    options: { name: 'fl', limit: 300, per: perMs, algorithm: 'fixed-window', lease: true, eager: 40 },
    most: (t) => 300 * (1 + Math.ceil(t / perMs)),
  },
}
const concurrency: RateLimiterOptions = { name: 'c', limit: 5, per: 2_000, algorithm: 'concurrency' }
const limiters = [...Object.values(cases).map(({ options }) => options), concurrency]

type Told = { worker: number } | (Admission & { limiter: number; source: string })

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

for (const where of ['one Redis', 'a 3-master Cluster'] as const) {
  test(`two machines with two workers each on ${where}, clocks that jump by an hour, workers killed, Redis paused: no bound is exceeded`, async () => {
    const namespace = testNamespace()
    const redis = where === 'one Redis' ? await startRedis() : await startRedisCluster()
    const rng = fileRng()
    const ctx = createContext({ redis: redis.url, namespace })
    const client = await ctx.redis.ready()
    const nodes = 'nodes' in client ? client.nodes('master') : [client]
    const env = {
      REDIS_URL: redis.url,
      NAMESPACE: namespace,
      OPTIONS: JSON.stringify({ workers: 2, limiters }),
    }
    const machines = [0, 1].map(() => runNode(new URL('fixtures/fleet.mjs', import.meta.url), { env }))
    const workersOf = (machine: NodeProcess): number[] =>
      toldBy(machine).flatMap((told) => ('worker' in told ? [told.worker] : []))
    for (const machine of machines)
      await machine.waitFor(() => machine.exited || workersOf(machine).length >= 2, 30_000)

    let kills = 0
    let pauses = 0
    const end = performance.now() + long(4_000, 60_000)
    while (performance.now() < end) {
      await sleep(rng.int(200, 600))
      if (rng.int(0, 1) === 0) {
        pauses += 1
        await Promise.all(nodes.map((node) => node.call('CLIENT', 'PAUSE', '200', 'ALL')))
      } else {
        const alive = machines.flatMap(workersOf).filter(isAlive)
        if (alive.length < 3) continue // they are starting again
        process.kill(rng.pick(alive), 'SIGKILL')
        kills += 1
      }
    }
    for (const machine of machines) expect(machine.exited, machine.stderr()).toBe(false)
    const told = machines.flatMap(toldBy).flatMap((each) => ('worker' in each ? [] : [each]))
    for (const machine of machines) await machine[Symbol.asyncDispose]()

    const figures: string[] = []
    for (const [index, [name, { most }]] of Object.entries(cases).entries()) {
      const admissions = told.filter(({ limiter }) => limiter === index)
      const leased = admissions.filter(({ source }) => source === 'lease').length
      expect(admissions.length, name).toBeGreaterThan(long(20, 300)) // it does admit
      if (name.endsWith('leases')) expect(leased, name).toBeGreaterThan(10)
      const worst = [100, perMs, 2 * perMs].map((t) => ({ t, most: mostWithin(t, admissions) }))
      figures.push(`${name} ${worst.map(({ t, most: seen }) => `${seen}/${most(t)} in ${t} ms`).join(', ')}`)
      for (const { t, most: seen } of worst) expect(seen, `${name} in ${t} ms`).toBeLessThanOrEqual(most(t))
    }
    const inFlight = mostAtOnce(told.filter(({ limiter }) => limiter === limiters.length - 1))
    figures.push(`concurrency ${inFlight}/${concurrency.limit as number} at once`)
    console.info(`[fleet] ${where}, ${kills} workers killed, ${pauses} pauses: ${figures.join('; ')}`)
    expect(inFlight).toBeGreaterThan(1)
    expect(inFlight).toBeLessThanOrEqual(concurrency.limit as number)
    for (const [key, ttl] of await ttls(ctx)) expect(ttl, key).not.toBe(-1)
    await ctx.closing.close()
  })
}

/** A worker that is killed may have got half of its last line out. */
function toldBy(machine: NodeProcess): Told[] {
  return machine.lines.flatMap((line) => {
    try {
      return [JSON.parse(line) as Told]
    } catch {
      return []
    }
  })
}

/** Most that was certainly in flight at one moment: from when it was known to be admitted until its end began. */
function mostAtOnce(held: readonly Admission[]): number {
  const steps = held.flatMap(({ sentAt, answeredAt, cost }) => [
    { at: sentAt, change: cost },
    { at: answeredAt, change: -cost },
  ])
  steps.sort((a, b) => a.at - b.at || a.change - b.change)
  let now = 0
  let most = 0
  for (const { change } of steps) {
    now += change
    most = Math.max(most, now)
  }
  return most
}
