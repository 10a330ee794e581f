import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import type { Receipt } from '../../src/index.ts'
import { track } from '../helpers/cleanup.ts'
import { commandOf, isAlive, until } from '../helpers/fork.ts'
import { steadyLoad } from '../helpers/http.ts'
import { isLong } from '../helpers/long.ts'
import { isFree } from '../helpers/ports.ts'
import { processesIn, sendSignal } from '../helpers/processes.ts'
import { startCluster, type TestCluster, whenInFlight } from './start-cluster.ts'

function serverOf(cluster: TestCluster): number | undefined {
  return processesIn(cluster.primary.stateDir).find((pid) =>
    /redis-server|valkey-server/.test(commandOf(pid)),
  )
}

function clientOf(cluster: TestCluster): Redis {
  const files = readdirSync(cluster.primary.stateDir, { recursive: true, encoding: 'utf8' })
  const socket = files.find((file) => file.endsWith('.sock'))
  const client = new Redis({ path: join(cluster.primary.stateDir, socket ?? 'missing') })
  client.on('error', () => {}) // its server is going to be killed
  track({ [Symbol.asyncDispose]: async () => client.disconnect() })
  return client
}

test('with nothing configured: kill -9 of a worker, of Redis and of the primary', async () => {
  const cluster = await startCluster({ redisUrl: null, env: { LOG: '1' }, options: { backoff: { min: 50 } } })
  const redis = await until(() => serverOf(cluster), { what: 'the managed Redis' })
  const client = clientOf(cluster)
  await client.set('kept', 'yes')
  const sent = async (): Promise<boolean> =>
    (await cluster.ask<Receipt>('/publish?payload=x')).remote === 'sent'
  await until(sent, { what: 'the bus to reach Redis' })

  // A worker.
  const [killed] = (await cluster.pids()) as [number, number]
  sendSignal(killed, 'SIGKILL')
  await until(
    async () => {
      const { workers } = await cluster.status()
      return workers.every(({ pid, state }) => state === 'ready' && pid !== killed)
    },
    { what: 'its replacement' },
  )

  // The managed Redis, under load that does not need it.
  const load = steadyLoad({ url: `${cluster.url}/`, clients: 2, keepAlive: true })
  const pids = await cluster.pids()
  sendSignal(redis, 'SIGKILL')
  const next = await until(
    () => {
      const found = serverOf(cluster)
      return found !== undefined && found !== redis && found
    },
    { what: 'another redis-server' },
  )
  await until(async () => (await client.get('kept')) === 'yes', { what: 'its data' })
  await until(sent, { what: 'the bus to reach Redis again' })
  await cluster.primary.waitFor(/^as-one: the managed local Redis died and is back with its data/m)
  expect(await load.stop()).toMatchObject({ failed: 0 })
  expect(await cluster.pids()).toEqual(pids)

  // The primary.
  const path = '/slow?ms=1500'
  const replies = Array.from({ length: 4 }, async () => (await cluster.get(path)).status)
  await whenInFlight(cluster, path, 4)
  const killedAt = performance.now()
  cluster.primary.kill('SIGKILL')
  await cluster.primary.exit
  expect(await Promise.all(replies)).toEqual([200, 200, 200, 200])
  expect(await isFree(cluster.port)).toBe(true)
  await until(() => !(pids as number[]).some(isAlive), { what: 'the workers to go', deadline: 25_000 })
  expect(isAlive(next)).toBe(true) // a new primary could still take it over
  // By its seconds; a command that it is about to run looks like itself for a moment.
  const guardians = () => cluster.primary.tree().filter((pid) => /^\/bin\/sh .* 30$/s.test(commandOf(pid)))
  await until(() => guardians().length === 1, { what: 'the guardian alone' })
  if (!isLong) return
  await until(() => cluster.primary.tree().length === 0, {
    what: 'nobody to be left',
    deadline: 35_000 - (performance.now() - killedAt),
    every: 200,
  })
})
