import { setProcessRole } from '../core/role.ts'
import { setProcessDefaults } from '../redis/defaults.ts'
import { createRedisSource } from '../redis/source.ts'
import type { App } from './app.ts'
import { trackConnections } from './connections.ts'
import { drain, type ShutdownHook } from './drain.ts'
import type { ResolvedClusterOptions } from './options.ts'
import { type ClusterWorkerHandle, serve } from './worker.ts'

/** `workers: 'inline'`: the app in this very process, with the same drain. For one CPU, one process per container, debuggers. */
export async function runInline(app: App, options: ResolvedClusterOptions): Promise<ClusterWorkerHandle> {
  setProcessRole('worker')
  const source = createRedisSource(options.redis, {
    name: options.name,
    env: process.env,
    cwd: process.cwd(),
  })
  setProcessDefaults({ name: options.name, namespace: options.namespace, source })
  const connections = trackConnections()
  const hooks: ShutdownHook[] = []
  let asked = false
  const onStop = (): void => {
    if (asked) process.exit(1)
    asked = true
    const { delayMs, lingerMs, stopTimeoutMs } = options.drain
    void drain(connections, { delayMs, lingerMs, timeoutMs: stopTimeoutMs }, hooks).then(() =>
      process.exit(0),
    )
  }
  process.on('SIGTERM', onStop)
  process.on('SIGINT', onStop)
  return serve(app, options, { index: 0, addShutdownHook: (hook) => void hooks.push(hook) })
}
