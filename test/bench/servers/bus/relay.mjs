// --import: in the primary, passes on what process.send brings; in a worker nothing.
import cluster from 'node:cluster'

if (cluster.isPrimary) {
  cluster.on('message', (from, message) => {
    if (!message?.load) return
    for (const worker of Object.values(cluster.workers)) if (worker !== from) worker.send(message)
  })
}
