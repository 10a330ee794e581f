// What the documentation of node:cluster shows, with the app loaded in the workers only.
import cluster from 'node:cluster'
import { once } from 'node:events'
import http from 'node:http'

const { PORT, WORKERS, BENCH_APP, BENCH_BALANCE } = process.env
if (cluster.isPrimary) {
  if (BENCH_BALANCE === 'os') cluster.schedulingPolicy = cluster.SCHED_NONE
  let listening = 0
  cluster.on('listening', () => {
    if (++listening === Number(WORKERS)) console.log('ready')
  })
  for (let i = 0; i < Number(WORKERS); i++) cluster.fork()
  // A rolling restart as people write it: a new one first, then the old one's disconnect(), and a limit for it.
  process.on('SIGHUP', async () => {
    for (const old of Object.values(cluster.workers)) {
      await once(cluster.fork(), 'listening')
      old.disconnect()
      const slow = setTimeout(() => old.process.kill(), 2_000)
      await once(old, 'exit')
      clearTimeout(slow)
    }
  })
  process.once('SIGTERM', () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGKILL')
    process.exit()
  })
} else {
  const { default: app } = await import(BENCH_APP)
  http.createServer(app).listen(Number(PORT), '127.0.0.1')
}
