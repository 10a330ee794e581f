// ioredis PUBLISH by hand: every message one PUBLISH, every worker a subscriber connection of its own.
import cluster from 'node:cluster'
import { Redis } from 'ioredis'
import { runPrimary, runWorker, WORKERS } from './flow.mjs'

if (cluster.isPrimary) {
  runPrimary()
  for (let index = 0; index < WORKERS; index++) cluster.fork({ BENCH_INDEX: String(index) })
} else {
  const publisher = new Redis(process.env.REDIS_URL)
  const subscriber = new Redis(process.env.REDIS_URL)
  const handlers = new Map()
  subscriber.on('message', (channel, message) => handlers.get(channel)(JSON.parse(message)))
  const on = (channel) => (handler) => {
    handlers.set(channel, handler)
    return subscriber.subscribe(channel)
  }
  const to = (channel) => (message) => void publisher.publish(channel, JSON.stringify(message))
  await runWorker(Number(process.env.BENCH_INDEX), {
    toReceivers: to('data'),
    toPublisher: to('ack'),
    onData: on('data'),
    onAck: on('ack'),
  })
}
