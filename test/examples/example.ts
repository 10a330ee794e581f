import { fileURLToPath } from 'node:url'
import { freePort, type NodeProcess, runNode } from '../helpers/fork.ts'
import { type Reply, request } from '../helpers/http.ts'
import { sharedRedis, testNamespace } from '../helpers/redis.ts'

export interface Example {
  readonly url: string
  readonly process: NodeProcess
  /** What it said when it was ready. */
  readonly line: string
  /** First part of its keys in a Redis that it has not brought itself. */
  readonly namespace: string | undefined
}

export interface ExampleOptions {
  /** undefined: nothing is configured, so it starts a private one. @default the one of the test run */
  redis?: string | undefined
  workers?: number
  env?: Record<string, string>
}

/** Starts an example as its README line does and waits for its one line. */
export async function startExample(path: string, options: ExampleOptions = {}): Promise<Example> {
  const port = await freePort()
  const redis = 'redis' in options ? options.redis : sharedRedis().url
  const namespace = redis === undefined ? undefined : testNamespace()
  const script = fileURLToPath(new URL(`../../examples/${path}`, import.meta.url))
  const process = runNode(script, {
    env: {
      PORT: `${port}`,
      ...(options.workers !== undefined && { WEB_CONCURRENCY: `${options.workers}` }),
      REDIS_URL: redis,
      AS_ONE_NAMESPACE: namespace,
      ...options.env,
    },
  })
  const [line] = await process.waitFor(/^.*http:\/\/localhost:\d+.*$/m, 30_000)
  return { url: `http://localhost:${port}`, process, line, namespace }
}

export const post = (url: string, body: object = {}): Promise<Reply> => request(url, { method: 'POST', body })
