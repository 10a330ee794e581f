import cluster from 'node:cluster'
import { broadcast, runCluster, subscribe } from 'as-one'
import { runPrimary, runWorker, WORKERS } from './flow.mjs'

if (cluster.isPrimary) runPrimary() // before there are workers: they say at once that they are ready

const app = (_req, res) => res.end()
const { role, index } = await runCluster(app, { name: 'bench', port: 0, workers: WORKERS })
if (role === 'worker') {
  const on = (topic) => (handler) => subscribe(topic, handler).ready
  await runWorker(index, {
    toReceivers: (message) => broadcast('bench.data', message),
    toPublisher: (message) => broadcast('bench.ack', message),
    onData: on('bench.data'),
    onAck: on('bench.ack'),
  })
}
