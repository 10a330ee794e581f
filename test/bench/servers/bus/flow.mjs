// One publisher, the other workers receive. The publisher goes on as long as the slowest of them is less than WINDOW
// messages behind: an open loop with backpressure, in which nothing is ever dropped.
import cluster from 'node:cluster'
import { setImmediate as turn } from 'node:timers/promises'

export const WORKERS = 5
const WINDOW = 16_000
const ACK_EVERY = 1_000
const TEXT = 'x'.repeat(74)

/** `onData` and `onAck` may return a promise of being heard. */
export async function runWorker(index, { toReceivers, toPublisher, onData, onAck }) {
  if (index !== 0) {
    let got = 0
    let inOrder = true
    let expected = 0
    await onData(({ n, last }) => {
      if (n === 0) {
        got = 0
        expected = 0
        inOrder = true
      }
      got += 1
      inOrder &&= n === expected++
      if (last || got % ACK_EVERY === 0) toPublisher({ index, got, inOrder })
    })
    process.send({ bench: 'ready', index })
    return
  }
  const acks = new Map()
  let wake = () => {}
  await onAck(({ index: from, got, inOrder }) => {
    if (!inOrder) throw new Error(`receiver ${from} missed something before its message ${got}`)
    acks.set(from, got)
    wake()
  })
  const slowest = () => (acks.size < WORKERS - 1 ? 0 : Math.min(...acks.values()))
  const until = async (condition) => {
    while (!condition()) {
      await new Promise((resolve) => {
        wake = resolve
      })
    }
  }
  process.on('message', async (message) => {
    if (message?.bench !== 'run') return
    acks.clear()
    const startedAt = performance.now()
    let sent = 0
    while (performance.now() - startedAt < message.ms) {
      for (let i = 0; i < message.burst; i++) toReceivers({ n: sent++, text: TEXT })
      await turn()
      await until(() => sent - slowest() < WINDOW)
    }
    toReceivers({ n: sent++, text: TEXT, last: true })
    await until(() => slowest() === sent)
    process.send({ bench: 'done', done: sent, us: (performance.now() - startedAt) * 1e3 })
  })
  process.send({ bench: 'ready', index })
}

/** Between the benchmark, which has the other end of our IPC, and the publisher; and for `process.send` the relay. */
export function runPrimary() {
  const workers = new Map()
  cluster.on('message', (from, message) => {
    if (message?.bench === 'ready') {
      workers.set(message.index, from)
      if (workers.size === WORKERS) process.send({ ready: true })
    }
    if (message?.bench === 'done') process.send(message)
    if (message?.relay === 'publisher') workers.get(0).send({ ack: message.data })
    if (message?.relay === 'all') {
      for (const worker of workers.values()) if (worker !== from) worker.send({ data: message.data })
    }
  })
  process.on('message', ({ runMs, burst }) => workers.get(0).send({ bench: 'run', ms: runMs, burst }))
}
