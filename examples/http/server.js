// A plain node:http server on every core. `node examples/http/server.js`, then `curl localhost:3000` a few times.
import { runCluster } from 'as-one'

function app(req, res) {
  res.setHeader('content-type', 'application/json')
  res.end(JSON.stringify({ url: req.url, worker: Number(process.env.AS_ONE_WORKER), pid: process.pid }))
}

const cluster = await runCluster(app)

if (cluster.role === 'primary') {
  const { workers, redis } = cluster.status()
  console.log(`${workers.length} workers on http://localhost:${process.env.PORT ?? 3000}, Redis: ${redis}`)
}
