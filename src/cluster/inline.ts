import { withDeadline } from '../core/abort.ts'
import { SharedStateError } from '../core/errors.ts'
import { setProcessRole } from '../core/role.ts'
import { setProcessDefaults } from '../redis/defaults.ts'
import { createRedisSource } from '../redis/source.ts'
import type { App } from './app.ts'
import { checkRedis } from './check-redis.ts'
import { trackConnections } from './connections.ts'
import { drain, type ShutdownHook } from './drain.ts'
import { type HealthPort, openHealthPort } from './health.ts'
import type { ResolvedClusterOptions } from './options.ts'
import { listenToSignals } from './signals.ts'
import { removeStaleSocket } from './stale-socket.ts'
import { putRedisIntoWords } from './words.ts'
import { type ClusterWorkerHandle, serve } from './worker.ts'

/** `workers: 'inline'`: the app in this very process, with the same drain. For one CPU, one process per container, debuggers. */
export async function runInline(app: App, options: ResolvedClusterOptions): Promise<ClusterWorkerHandle> {
  setProcessRole('worker')
  const { name, namespace, listen, readyTimeoutMs } = options
  const source = createRedisSource(options.redis, { name, env: process.env, cwd: process.cwd() })
  setProcessDefaults({ name, namespace, source })
  const connections = trackConnections()
  const hooks: ShutdownHook[] = []
  const silence = putRedisIntoWords()
  let stopping: Promise<void> | undefined
  let health: HealthPort | undefined
  let ready = false

  const stop = (): Promise<void> => {
    stopping ??= (async () => {
      const { delayMs, lingerMs, stopTimeoutMs } = options.drain
      await drain(connections, { delayMs, lingerMs, timeoutMs: stopTimeoutMs }, hooks)
      connections.untrack()
      await health?.close()
      silence()
      await source.close()
    })()
    return stopping
  }
  const signals = listenToSignals({ stop, kill: () => void connections.destroyAll() })

  try {
    if (options.health)
      health = await openHealthPort(options.health, {
        isReady: () => ready && !stopping,
        status: () => ({ name, pid: process.pid, redis: source.label, ...connections.counts() }),
        actions: { stop: () => void process.kill(process.pid, 'SIGTERM') },
      })
    await checkRedis(source)
    if ('path' in listen) await removeStaleSocket(listen.path)
    if (stopping) throw new SharedStateError('ERR_AS_ONE_CLOSED', 'stopped before it had started')
    const index = Number(process.env.NODE_APP_INSTANCE ?? 0) || 0 // PM2 counts too
    const tellReady = (): void => {
      ready = true
    }
    const serving = serve(app, options, {
      index,
      addShutdownHook: (hook) => void hooks.push(hook),
      tellReady,
    })
    const handle = await withDeadline(serving, readyTimeoutMs, () => notReady(readyTimeoutMs))
    if (!options.waitReady) tellReady()
    return handle
  } catch (error) {
    await stop()
    signals.stop()
    throw error
  }
}

function notReady(timeoutMs: number): SharedStateError {
  return new SharedStateError(
    'ERR_AS_ONE_BOOT',
    `the app was not ready within ${timeoutMs} ms (readyTimeout): it has not come to listen`,
  )
}
