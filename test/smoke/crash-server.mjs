// What test/smoke/crashes.mjs loads: the same handler under this package and under bare node:cluster.
import cluster from 'node:cluster'
import { createServer } from 'node:http'

const [kind, port] = [process.argv[2], Number(process.argv[3])]
const WORKERS = 4

const app = (req, res) => {
  if (req.url === '/crash')
    setImmediate(() => {
      throw new Error('crashed as asked')
    })
  else setTimeout(() => res.end('ok'), 10)
}

if (kind === 'ours') {
  const { runCluster } = await import('as-one')
  const { role } = await runCluster(app, {
    port,
    workers: WORKERS,
    name: 'crashes',
    backoff: { min: '50ms', max: '200ms' },
  })
  if (role === 'primary') console.log('serving')
} else if (cluster.isPrimary) {
  let listening = 0
  cluster.on('listening', () => {
    listening += 1
    if (listening === WORKERS) console.log('serving')
  })
  cluster.on('exit', () => cluster.fork())
  for (let i = 0; i < WORKERS; i++) cluster.fork()
} else {
  createServer(app).listen(port)
}
