// What the documentation of node:cluster offers: fork a new one, wait until it listens, disconnect() the old one, and
// kill it when it has not gone 2 s later, which every open event stream and WebSocket leads to.
import cluster from 'node:cluster'
import { once } from 'node:events'
import { listen } from './app.mjs'

const [port, workers] = process.argv.slice(2).map(Number)
const KILL_AFTER_MS = 2_000

if (cluster.isPrimary) {
  let forced = 0
  const running = []
  for (let i = 0; i < workers; i++) running.push(cluster.fork())
  await Promise.all(running.map((worker) => once(worker, 'listening')))
  process.on('message', async () => {
    for (let i = 0; i < workers; i++) {
      const old = running[i]
      running[i] = cluster.fork()
      await once(running[i], 'listening')
      const gone = once(old.process, 'exit')
      old.disconnect()
      const timer = setTimeout(() => {
        forced += 1
        old.process.kill()
      }, KILL_AFTER_MS)
      await gone
      clearTimeout(timer)
    }
    process.send({ reloaded: true, forced })
  })
  process.on('SIGTERM', () => process.exit())
  process.send({ serving: true })
} else listen(port)
