import { afterEach, expect, test } from 'vitest'
import { isLong, long } from '../helpers/long.ts'
import { sendSignal } from '../helpers/processes.ts'
import { createRng, seed } from '../helpers/random.ts'
import { startRedis, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { expectBalanced, expectCovered, unaccounted } from './ledger.ts'
import { startMachine, type WorkerLink } from './machine.ts'

let checked: WorkerLink[] = []
afterEach(async () => {
  for (const worker of checked.splice(0)) expect((await worker.account()).unhandled).toEqual([])
})

/** Ends all sending and waits until each of `listeners` has received or been told of every message of each sender. */
async function settle(senders: readonly WorkerLink[], listeners = senders): Promise<number> {
  checked = [...listeners]
  const sent = new Map<WorkerLink, number>()
  for (const sender of senders) sent.set(sender, ((await sender.tell('stop')) as { sent: number }).sent)
  let reported = 0
  for (const listener of listeners) {
    await until(
      async () => {
        const account = await listener.account()
        return senders.every(
          (sender) => sender === listener || unaccounted(account, sender.id, sent.get(sender)!) <= 0,
        )
      },
      { what: 'every message to be received or reported', deadline: 25_000, every: 100 },
    )
    const account = await listener.account()
    for (const sender of senders)
      if (sender !== listener) reported += expectBalanced(account, sender.id, sent.get(sender)!)
  }
  return reported
}

const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

async function twoMachines(options: { topic?: string; options?: object; workers?: number } = {}) {
  const redis = await startRedis()
  const start = { redisUrl: redis.url, namespace: testNamespace(), workers: 2, ...options }
  const machines = await Promise.all([startMachine(start), startMachine(start)])
  const workers = machines.flatMap((machine) => machine.workers)
  await until(async () => (await workers[0]!.members()).length === workers.length, {
    what: 'all to have met',
  })
  return { redis, machines, workers }
}

test.each(['volatile', 'log'] as const)(
  'two machines, CLIENT KILL every 200 ms under 2,000 messages/s (%s)',
  { timeout: 90_000 },
  async (delivery) => {
    const topics = { news: { delivery, ...(delivery === 'log' && { maxLen: 100_000 }) } }
    const { redis, workers } = await twoMachines({ options: { topics } })
    const admin = redis.client()
    for (const worker of workers) await worker.tell('send', { rate: 500 })
    const seconds = long(2, 20)
    const until = performance.now() + seconds * 1_000
    let kills = 0
    while (performance.now() < until) {
      await admin.call('CLIENT', 'KILL', 'TYPE', kills++ % 3 ? 'pubsub' : 'normal', 'SKIPME', 'yes')
      await wait(200)
    }
    const reported = await settle(workers)
    console.log(
      `${delivery}: ${kills} kills in ${seconds} s, ${reported} messages reported as missing, rest received`,
    )
    if (delivery === 'log') expect(reported).toBe(0)
    const [one] = workers as [WorkerLink]
    expect((await one.account()).sent).toBeGreaterThan(seconds * 500 * 0.8)
  },
)

test('a worker stopped for 4 s under 20,000 messages/s costs its primary its limit and gets a gap', {
  timeout: 60_000,
}, async () => {
  const redis = await startRedis()
  const queueBytes = 4 << 20
  const machine = await startMachine({
    redisUrl: redis.url,
    namespace: testNamespace(),
    workers: 3,
    options: { queueBytes },
  })
  const [stuck, sender, other] = machine.workers as [WorkerLink, WorkerLink, WorkerLink]
  await sender.tell('send', { rate: 20_000, ballast: 60 })
  await wait(long(1_500, 3_000))
  const before = await machine.memory()
  sendSignal(stuck.pid, 'SIGSTOP')
  let most = 0
  let after = before
  const end = performance.now() + 4_000
  while (performance.now() < end) {
    after = await machine.memory()
    const grown = after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers
    most = Math.max(most, grown)
    await wait(100)
  }
  sendSignal(stuck.pid, 'SIGCONT')
  const reported = await settle([sender], [stuck, other])
  const account = await stuck.account()
  console.log(
    `stuck worker: limit ${queueBytes}, most queued ${after.mostQueued}, live memory of the primary +${most}; ${reported} messages reported in ${account.gaps.length} gaps`,
  )
  expect(reported).toBeGreaterThan(0)
  expect(account.gaps.every(({ cause }) => cause === 'overflow')).toBe(true)
  expect((await other.account()).gaps).toEqual([])
  expect(after.mostQueued).toBeGreaterThan(queueBytes * 0.9)
  expect(after.mostQueued).toBeLessThanOrEqual(queueBytes)
  // Beside its limit: the queue's own entries, and what is on its way to the others and to a Redis that has its share of
  // a busy machine, at 2 MB/s.
  expect(most).toBeLessThan(queueBytes + (2 << 20))
})

test('a primary stopped for some seconds: nothing is lost silently, and order is kept', {
  timeout: 60_000,
}, async () => {
  const { machines, workers } = await twoMachines()
  for (const worker of workers) await worker.tell('send', { rate: 1_000 })
  await wait(300)
  sendSignal(machines[0]!.primary.pid, 'SIGSTOP')
  await wait(long(2_000, 8_000))
  sendSignal(machines[0]!.primary.pid, 'SIGCONT')
  await wait(300)
  await settle(workers)
})

test('a machine that starts while the only other primary stands still: what that has not sent is reported', {
  timeout: 60_000,
}, async () => {
  const redis = await startRedis()
  const start = { redisUrl: redis.url, namespace: testNamespace() }
  const first = await startMachine({ ...start, workers: 2 })
  const [sender] = first.workers as [WorkerLink]
  await sender.tell('send', { rate: 1_000 })
  await until(async () => (await sender.account()).sent > 100, { what: 'it to be talking to itself' })
  sendSignal(first.primary.pid, 'SIGSTOP')
  const second = await startMachine({ ...start, workers: 1 })
  const [newcomer] = second.workers as [WorkerLink]
  const sentBefore = (await sender.account()).sent
  sendSignal(first.primary.pid, 'SIGCONT')
  const heard = async () => (await newcomer.account()).received[sender.id]?.at(-1)?.[1] ?? 0
  await until(async () => (await heard()) > sentBefore, { what: 'the newcomer to hear it' })
  const { sent } = (await sender.tell('stop')) as { sent: number }
  await until(async () => (await heard()) === sent, { what: 'the last message' })
  checked = [newcomer]
  const reported = expectCovered(await newcomer.account(), sender.id, sentBefore + 1, sent)
  console.log(`a newcomer beside a stopped primary: ${reported} messages reported as missing, rest received`)
})

test("to: 'primary' reaches the handle of this machine's primary, and no other", async () => {
  const { machines, workers } = await twoMachines()
  for (const { primary, workers: own } of machines)
    expect(await own[0]!.tell('askPrimary', { payload: own[0]!.id })).toEqual({
      receipt: { local: 1, remote: 'none' },
      answer: { heard: own[0]!.id, by: primary.pid },
    })
  for (const worker of workers) expect((await worker.account()).gaps).toEqual([])
})

// Its workers exit without a word, so the others have to wait for its lease to end.
test.runIf(isLong)(
  'a primary killed under load: what its workers sent is received or reported',
  {
    timeout: 60_000,
  },
  async () => {
    const { machines, workers } = await twoMachines()
    const [first, second] = machines
    for (const worker of workers) await worker.tell('send', { rate: 1_000 })
    await wait(7_000) // a heartbeat at least
    first!.primary.kill('SIGKILL')
    const [watcher] = second!.workers as [WorkerLink]
    await until(async () => (await watcher.members()).length === 2, {
      what: 'the dead machine to be forgotten',
      deadline: 30_000,
      every: 100,
    })
    await settle(second!.workers)
    for (const worker of second!.workers) {
      const { received, gaps } = await worker.account()
      for (const { id } of first!.workers) {
        const own = gaps.filter(({ publisher }) => publisher === id)
        const pieces = [...received[id]!, ...own.map(({ from, to }) => [from, to ?? from - 1] as const)]
        let last = 0
        for (const [from, to] of pieces.sort((a, b) => a[0] - b[0])) {
          expect(from).toBe(last + 1)
          last = to
        }
        expect(own.filter(({ count }) => count === null).length).toBeLessThanOrEqual(1)
      }
    }
  },
)

test('workers killed in the middle of what they send: nobody sees half a message, all others go on', {
  timeout: 300_000,
}, async () => {
  const redis = await startRedis()
  const machine = await startMachine({ redisUrl: redis.url, namespace: testNamespace(), workers: 2 })
  const rng = createRng(seed).fork('kills')
  const [listener] = machine.workers as [WorkerLink]
  const kills = long(8, 200)
  for (let kill = 0; kill < kills; kill++) {
    const victim = machine.workers.at(-1)!
    // It has begun; a worker that does not get to run would be killed before.
    await victim.tell('send', { rate: 20_000, ballast: rng.int(10, 5_000) })
    await wait(rng.int(3, 60))
    sendSignal(victim.pid, 'SIGKILL')
    await until(() => machine.workers.at(-1) !== victim, { what: 'a successor', deadline: 40_000 })
    await machine.workers.at(-1)!.tell('ready')
  }
  await listener.tell('burst', { count: 100 })
  const last = machine.workers.at(-1)!
  await until(async () => unaccounted(await last.account(), listener.id, 100) === 0, {
    what: 'the survivors to go on',
  })
  const { received, gaps } = await listener.account()
  // What the hub has read is whole and without holes; the rest died with its publisher.
  for (const runs of Object.values(received)) expect(runs).toHaveLength(1)
  for (const runs of Object.values(received)) expect(runs[0]![0]).toBe(1)
  expect(gaps).toEqual([])
  expect(Object.keys(received).length).toBeGreaterThan(kills / 2)
  console.log(`${kills} workers killed, ${Object.keys(received).length} of them had been heard`)
})
