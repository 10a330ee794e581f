import cluster from 'node:cluster'
import { announcedChannel } from '../bus/index.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { processRole } from '../core/role.ts'
import { setProcessDefaults } from '../redis/defaults.ts'
import { createRedisSource } from '../redis/source.ts'
import { type App, checkApp, checkNotListening } from './app.ts'
import { runInline } from './inline.ts'
import { type ClusterOptions, type ResolvedClusterOptions, resolveClusterOptions } from './options.ts'
import { type PrimaryHandle, startPrimary } from './primary.ts'
import { type ClusterWorkerHandle, runWorker } from './worker.ts'
import { workerAgent } from './worker-agent.ts'

export type ClusterHandle = PrimaryHandle | ClusterWorkerHandle

/**
 * Runs an app on several worker processes that behave as one: forks, supervises, drains, reloads. The same file runs in
 * the primary, where it resolves once the workers serve, and in each worker, where it resolves once the app listens.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` and `ERR_AS_ONE_APP` before anything has started, `ERR_AS_ONE_REDIS_…`
 * when Redis cannot be used, `ERR_AS_ONE_BOOT` when no worker starts. Nobody who catches it: one line on stderr, exit code 1.
 * @example
 * import { runCluster } from 'as-one'
 * await runCluster(() => import('./app.js'), { port: 3000 })
 */
export function runCluster(app: App, options?: ClusterOptions): Promise<ClusterHandle> {
  return run(app, options).catch((error: unknown) => {
    sayInOneLineIfUncaught(error)
    throw error
  })
}

async function run(app: App, given: ClusterOptions | undefined): Promise<ClusterHandle> {
  const agent = workerAgent()
  if (agent) {
    if (!agent.claim()) throw calledTwice()
    const options = inWorker(resolveClusterOptions(given, process.env))
    return runWorker(app, options, agent)
  }
  const options = resolveClusterOptions(given, process.env)
  checkApp(app)
  if (processRole() !== 'alone') throw calledTwice()
  const { workers } = options
  // A worker of somebody else's primary (PM2's, for one) is one of several already, and cannot fork.
  if (workers === 'inline' || cluster.isWorker) return runInline(app, options)
  checkNotListening(app)
  return startPrimary({ ...options, workers })
}

function calledTwice(): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_OPTIONS', 'runCluster has already been called in this process')
}

/** The primary has the last word on what is shared; options and instances, which it cannot send, come from the same call here. */
function inWorker(options: ResolvedClusterOptions): ResolvedClusterOptions {
  const announcement = announcedChannel()?.announcement
  if (!announcement) return options
  const { name, namespace, redis, redisId } = announcement
  const source = createRedisSource(redis ?? options.redis, {
    name,
    env: process.env,
    cwd: process.cwd(),
    id: redisId,
  })
  setProcessDefaults({ name, namespace, source })
  return options
}

/** Node looks for rejections that nobody catches as soon as the microtasks are done; the rest is a margin. */
const UNCAUGHT_WITHIN_MS = 1_000

/**
 * For a start that failed and that nobody catches, a line with the reason instead of Node's dump of where it was thrown.
 * Other listeners, and any other error of that moment, fare as if this listener were not there.
 */
function sayInOneLineIfUncaught(error: unknown): void {
  if (!(error instanceof SharedStateError)) return
  const onUncaught = (uncaught: unknown): void => {
    if (process.listenerCount('uncaughtException') > 1) return // the app has its own way with these
    process.off('uncaughtException', onUncaught)
    if (uncaught !== error) {
      process.nextTick(() => {
        throw uncaught
      })
      return
    }
    process.stderr.write(`as-one: ${messageOf(error)}\n`)
    process.exit(1)
  }
  process.on('uncaughtException', onUncaught)
  setTimeout(() => process.off('uncaughtException', onUncaught), UNCAUGHT_WITHIN_MS).unref()
}
