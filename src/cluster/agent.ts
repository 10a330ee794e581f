/**
 * Preloaded into every worker, before any user code: opens the bus channel, tracks connections, and sees to it that
 * neither a Ctrl-C to the whole group nor the death of the primary costs a request.
 */
import cluster from 'node:cluster'
import { isMainThread } from 'node:worker_threads'
import { openAnnouncedChannel } from '../bus/index.ts'
import { startWorkerAgent } from './worker-agent.ts'

// The preload is inherited by worker threads and forked grandchildren, which are none of our workers.
if (isMainThread && cluster.isWorker && openAnnouncedChannel(process.env)) startWorkerAgent()
