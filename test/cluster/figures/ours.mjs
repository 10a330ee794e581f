import { runCluster } from 'as-one'
import { serve } from './app.mjs'

const [port, workers] = process.argv.slice(2).map(Number)
const cluster = await runCluster(serve, { port, host: '127.0.0.1', workers, name: 'figures' })
if (cluster.role === 'primary') {
  let forced = 0
  cluster.on('worker-exited', (_worker, exit) => {
    if (exit.forced || exit.code !== 0) forced += 1
  })
  process.on('message', async () => {
    await cluster.reload()
    process.send({ reloaded: true, forced })
  })
  process.send({ serving: true })
}
