// The demo: `npm run demo`, or `node examples/demo/server.js` after a build. PORT, WEB_CONCURRENCY and REDIS_URL are
// honoured; without REDIS_URL a private redis-server is started.
import { runCluster } from 'as-one'

// Four workers also where there are fewer cores: the page is about what happens between them.
const workers = process.env.WEB_CONCURRENCY ? {} : { workers: 4 }
const cluster = await runCluster(() => import('./app.js'), workers)

if (cluster.role === 'primary') {
  const { workers, redis } = cluster.status()
  console.log(`http://localhost:${process.env.PORT ?? 3000} · ${workers.length} workers · Redis: ${redis}`)
} else {
  // A browser keeps its few connections open, and each belongs to one worker. Ended after a few requests they spread
  // over all workers again, those just started included, and the page shows it. An ordinary app need not do this.
  cluster.server.maxRequestsPerSocket = 8

  const { dieWhenAsked } = await import('./lifecycle.js')
  dieWhenAsked()
}
