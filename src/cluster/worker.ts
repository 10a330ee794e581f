import type { Server } from 'node:net'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { type App, loadApp } from './app.ts'
import type { ShutdownHook } from './drain.ts'
import type { ResolvedClusterOptions } from './options.ts'
import type { WorkerAgent } from './worker-agent.ts'

export interface ClusterWorkerHandle {
  readonly role: 'worker'
  /** 0 to N-1, kept by the replacement. */
  readonly index: number
  readonly server: Server
  /** Runs after the last request and before the process ends, newest first, each awaited. */
  onShutdown(hook: ShutdownHook): void
  /** With `waitReady`: from now on this worker counts as ready, and the one it replaces may go. */
  ready(): void
}

/** Loads the app, listens, and tells the primary; what goes wrong on the way ends this process, with the reason. */
export async function runWorker(
  app: App,
  options: ResolvedClusterOptions,
  agent: WorkerAgent,
): Promise<ClusterWorkerHandle> {
  try {
    const handle = await serve(app, options, agent)
    if (!options.waitReady) agent.tellReady()
    return handle
  } catch (error) {
    agent.tellFailed(error)
    return new Promise(() => {}) // the process ends as soon as the primary has the reason
  }
}

/** Loads the app and listens. */
export async function serve(
  app: App,
  options: ResolvedClusterOptions,
  agent: Pick<WorkerAgent, 'index' | 'addShutdownHook' | 'tellReady'>,
): Promise<ClusterWorkerHandle> {
  const { server, close } = await loadApp(app)
  if (close) agent.addShutdownHook(close)
  if (!server.listening) await listen(server, options.listen)
  return {
    role: 'worker',
    index: agent.index,
    server,
    onShutdown: (hook) => agent.addShutdownHook(hook),
    ready: () => agent.tellReady(),
  }
}

function listen(server: Server, on: ResolvedClusterOptions['listen']): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException): void => {
      const where =
        'path' in on
          ? `socketPath ${on.path}`
          : `port ${on.port}${on.host === undefined ? '' : ` on ${on.host}`}`
      const what =
        error.code === 'EADDRINUSE'
          ? 'is in use, by another process or because the app calls listen() itself'
          : `cannot be listened on: ${messageOf(error)}`
      reject(
        new SharedStateError('ERR_AS_ONE_PORT', `${where} ${what}; ${remedy(error, on)}`, { cause: error }),
      )
    }
    server.once('error', onError)
    const onListening = (): void => {
      server.off('error', onError)
      resolve()
    }
    if ('path' in on) server.listen(on.path, onListening)
    else if (on.host === undefined) server.listen(on.port, onListening)
    else server.listen(on.port, on.host, onListening)
  })
}

function remedy({ code }: NodeJS.ErrnoException, on: ResolvedClusterOptions['listen']): string {
  if ('path' in on) return 'set socketPath to another path, in a directory that this user may write to'
  if (code === 'ENOTFOUND' || code === 'EADDRNOTAVAIL' || code === 'EAI_AGAIN')
    return 'set host to an address of this machine, or leave it out'
  if (code === 'EACCES') return 'set port or PORT to another one: those below 1024 need a privilege'
  return 'set port or PORT to another one'
}
