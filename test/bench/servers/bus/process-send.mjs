// process.send to the primary, which sends it on to every other worker.
import cluster from 'node:cluster'
import { runPrimary, runWorker, WORKERS } from './flow.mjs'

if (cluster.isPrimary) {
  runPrimary()
  for (let index = 0; index < WORKERS; index++) cluster.fork({ BENCH_INDEX: String(index) })
} else {
  const on = (name) => (handler) =>
    process.on('message', (message) => {
      if (message?.[name]) handler(message[name])
    })
  await runWorker(Number(process.env.BENCH_INDEX), {
    toReceivers: (data) => process.send({ relay: 'all', data }),
    toPublisher: (data) => process.send({ relay: 'publisher', data }),
    onData: on('data'),
    onAck: on('ack'),
  })
}
