import { expect, test } from 'vitest'
import { isAlive, until } from '../helpers/fork.ts'
import { sendSignal } from '../helpers/processes.ts'
import { startCluster, type TestCluster, whenInFlight } from './start-cluster.ts'

async function whenServing(cluster: TestCluster, count: number): Promise<void> {
  await until(
    async () => {
      const { workers, draining } = await cluster.status()
      return workers.length === count && draining === 0 && workers.every(({ state }) => state === 'ready')
    },
    { what: `${count} workers`, deadline: 30_000 },
  )
}

test('up and down, by number and by step, with dense indexes', async () => {
  const cluster = await startCluster({ options: { workers: 1, drain: { linger: '200ms' } } })
  const [first] = await cluster.pids()
  await cluster.tell('scale', '+2')
  await whenServing(cluster, 3)
  expect((await cluster.status()).workers.map(({ index }) => index)).toEqual([0, 1, 2])
  const indexes = new Set<string>()
  for (let i = 0; i < 6; i++) indexes.add((await cluster.who()).index)
  expect(indexes).toEqual(new Set(['0', '1', '2']))

  await cluster.tell('scale', '-1')
  await whenServing(cluster, 2)
  await cluster.tell('scale', 4)
  await cluster.tell('scale', 1) // before the new ones are ready
  await whenServing(cluster, 1)
  expect(await cluster.pids()).toEqual([first])
  expect(cluster.primary.stderr()).toBe('')

  for (const wrong of [0, -1, 1.5, 1_025, '-1', '-9', '+1025', 'x', '2', '', null]) {
    await expect(cluster.tell('scale', wrong), String(wrong)).rejects.toMatchObject({
      code: 'ERR_AS_ONE_OPTIONS',
      message: expect.stringMatching(/scale must lead to 1 to 1024 workers/),
    })
  }
  expect((await cluster.status()).desired).toBe(1)
})

test('the highest index goes, when it has answered', async () => {
  const cluster = await startCluster({ options: { drain: { linger: '200ms' } }, env: { LOG: '1' } })
  const [first = 0, second = 0] = await cluster.pids()
  const waiting = [cluster.get('/early-headers'), cluster.get('/early-headers')]
  await whenInFlight(cluster, '/early-headers', 2) // round robin: one in each worker
  await cluster.tell('scale', 1)
  expect((await cluster.status()).draining).toBe(1)
  for (const pid of [first, second]) sendSignal(pid, 'SIGUSR2') // what the requests wait for
  const pids = (await Promise.all(waiting)).map((reply) => reply.json<{ pid: number }>().pid)
  expect(pids).toContain(second)
  await until(() => !isAlive(second), { what: 'the second worker to go' })
  await cluster.who()
})

test('SIGTTIN adds a worker, SIGTTOU takes one away, never the last', async () => {
  const cluster = await startCluster({ options: { workers: 1, drain: { linger: '200ms' } } })
  cluster.primary.kill('SIGTTIN')
  await whenServing(cluster, 2)
  cluster.primary.kill('SIGTTOU')
  await whenServing(cluster, 1)
  cluster.primary.kill('SIGTTOU')
  expect((await cluster.status()).desired).toBe(1) // and two signals at once arrive in any order
  cluster.primary.kill('SIGTTIN')
  await whenServing(cluster, 2)
})
