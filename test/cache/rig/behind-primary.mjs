// Two workers behind one hub, the primary's.
import { runCluster } from 'as-one'

const settings = JSON.parse(process.env.RIG)
const handle = await runCluster((_req, res) => res.end(), {
  workers: 2,
  port: settings.port,
  redis: settings.redis,
  namespace: settings.namespace,
})
if (handle.role === 'worker') {
  const { work } = await import('./worker.mjs')
  await work({ ...settings, index: settings.index + handle.index })
}
