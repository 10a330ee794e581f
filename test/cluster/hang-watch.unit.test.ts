import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { expect, test } from 'vitest'
import { signEveryMs, watchForHang } from '../../src/cluster/hang-watch.ts'
import { spareLeadMs, sparePauseMs } from '../../src/cluster/spare.ts'
import { track } from '../helpers/cleanup.ts'
import { until } from '../helpers/fork.ts'

function watched(timeoutMs: number, leadMs: number) {
  const told: string[] = []
  const watch = watchForHang({
    pid: process.pid,
    timeoutMs,
    leadMs: () => leadMs,
    onSilence: (silent) => told.push(silent ? 'silent' : 'back'),
    onHang: () => told.push('hung'),
  })
  track({ [Symbol.asyncDispose]: async () => watch.stop() })
  return { watch, told }
}

test('silence is told before the timeout, and so is its end', async () => {
  const { watch, told } = watched(400, 200)
  watch.heard(false)
  await until(() => told.length === 1, { what: 'the silence', every: 5 })
  watch.heard(false)
  expect(told).toEqual(['silent', 'back'])
  const since = performance.now()
  await until(() => told.includes('hung'), { what: 'the timeout', every: 5 })
  expect(told).toEqual(['silent', 'back', 'silent', 'hung'])
  expect(performance.now() - since).toBeGreaterThan(390)
})

test('who debugs may take its time', async () => {
  const { watch, told } = watched(100, 50)
  watch.heard(true)
  await sleep(400)
  expect(told).toEqual([])
})

test('a sign that has come while this process was late counts, though its timer comes first', async () => {
  const posted = new Int32Array(new SharedArrayBuffer(4))
  const thread = new Worker(
    `const { parentPort, workerData } = require('node:worker_threads')
    const sign = () => {
      parentPort.postMessage('sign')
      Atomics.store(workerData, 0, 1)
    }
    parentPort.on('message', () => setTimeout(sign, 50))`,
    { eval: true, workerData: posted },
  )
  track({ [Symbol.asyncDispose]: async () => void (await thread.terminate()) })
  await new Promise((resolve) => thread.once('online', resolve))
  const { watch, told } = watched(200, 100)
  let signs = 0
  thread.on('message', () => {
    signs += 1
    watch.heard(false)
  })
  watch.heard(false)
  thread.postMessage('begin')
  await new Promise((resolve) => setImmediate(resolve)) // after this phase the loop looks at timers, not at what has come
  // Late, and until the sign has come: the thread may have had no CPU either.
  for (const end = performance.now() + 300; performance.now() < end || Atomics.load(posted, 0) === 0; );
  await until(() => signs === 1, { what: 'the sign', every: 5 })
  expect(told).toEqual([])
})

test('signs of life and the lead of a spare follow from the timeout', () => {
  expect([signEveryMs(2_000), signEveryMs(30_000)]).toEqual([250, 1_000])
  expect([spareLeadMs(30_000, 500), spareLeadMs(2_000, 1_500)]).toEqual([1_000, 1_000])
  expect(spareLeadMs(30_000, Number.POSITIVE_INFINITY)).toBe(15_000)
  expect([0, 1, 2, 100].map(sparePauseMs)).toEqual([60_000, 120_000, 240_000, 3_600_000])
})
