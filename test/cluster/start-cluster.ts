import { writeFileSync } from 'node:fs'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { commandOf, freePort, type NodeProcess, pidsOf, runNode } from '../helpers/fork.ts'
import { get, type Reply } from '../helpers/http.ts'
import { sharedRedis, testNamespace } from '../helpers/redis.ts'

export const fixture = (name: string): string => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url))

export interface ClusterStart {
  /** @default server.mjs */
  script?: string
  /** Of runCluster. */
  options?: Record<string, unknown>
  args?: readonly string[]
  /** What runs the script, and what stands before it: see runNode. */
  node?: string
  nodeArgs?: readonly string[]
  env?: Record<string, string | undefined>
  /** File of the app module. @default app.mjs */
  app?: string
  /** @default the shared Redis of the run; null for nothing configured */
  redisUrl?: string | null
  namespace?: string
}

export interface Who {
  pid: number
  index: string
  instance: string
  version?: string
}

export interface TestCluster {
  readonly primary: NodeProcess
  readonly port: number
  readonly url: string
  /** The `answer` of the app to a request of its own connection. */
  ask<T = unknown>(path: string, options?: { timeout?: number }): Promise<T>
  get(path: string, options?: { timeout?: number }): Promise<Reply>
  who(): Promise<Who>
  /** Of the slots, by index; undefined where there is none. */
  pids(): Promise<(number | undefined)[]>
  /** Has the primary do something; rejects with what it rejects with. */
  tell<T = void>(command: string, argument?: unknown): Promise<T>
  status(): Promise<Status>
  /** What the primary has told of its workers so far. */
  events(name: string): { event: string; index: number; pid: number; exit?: Exit; restartMs?: number }[]
}

interface Exit {
  code: number | null
  signal: string | null
  forced: boolean
}

export interface Status {
  pid: number
  desired: number
  generation: number
  draining: number
  workers: { index: number; pid?: number; state: string; generation?: number; restarts: number }[]
}

let nextId = 0

/** Starts a primary and waits until its workers serve. */
export async function startCluster(start: ClusterStart = {}): Promise<TestCluster> {
  const cluster = await spawnCluster(start)
  const { primary } = cluster
  await primary.waitFor(() => primary.exited || isStarted(primary), 30_000)
  if (!isStarted(primary)) throw new Error(`the primary has exited:\n${primary.stderr()}`)
  return cluster
}

/** Starts a primary, and leaves it to the test what it waits for. */
export async function spawnCluster(start: ClusterStart = {}): Promise<TestCluster> {
  const { options = {}, redisUrl = sharedRedis().url } = start
  const port = await freePort()
  const primary = runNode(start.script ?? fixture('server.mjs'), {
    ipc: true,
    args: start.args ?? [],
    ...(start.node !== undefined && { node: start.node }),
    ...(start.nodeArgs && { nodeArgs: start.nodeArgs }),
    env: {
      PORT: String(port),
      OPTIONS: JSON.stringify({
        workers: 2,
        name: 'test',
        namespace: start.namespace ?? testNamespace(),
        ...options,
      }),
      ...(redisUrl === null ? {} : { REDIS_URL: redisUrl }),
      ...(start.app === undefined ? {} : { APP: pathToFileURL(start.app).href }),
      ...start.env,
    },
  })
  const url = `http://127.0.0.1:${port}`
  const ask = async <T>(path: string, settings: { timeout?: number } = {}): Promise<T> =>
    (await get(`${url}${path}`, settings)).json<{ answer: T }>().answer

  async function tell<T>(command: string, argument?: unknown): Promise<T> {
    const id = nextId++
    primary.send({ id, command, argument })
    const { error, result } = await primary.waitFor(() => {
      const answers = primary.messages as {
        id?: number
        error?: { code: string; message: string }
        result: T
      }[]
      return answers.find((message) => message.id === id)
    }, 60_000)
    if (error) throw Object.assign(new Error(error.message), error)
    return result
  }

  return {
    primary,
    port,
    url,
    ask,
    get: (path, settings) => get(`${url}${path}`, settings),
    who: () => ask<Who>('/'),
    tell,
    status: () => tell<Status>('status'),
    pids: async () => (await tell<Status>('status')).workers.map(({ pid }) => pid),
    events: (name) =>
      (primary.messages as ReturnType<TestCluster['events']>).filter(({ event }) => event === name),
  }
}

function isStarted(primary: NodeProcess): boolean {
  return (primary.messages as { started?: unknown }[]).some(({ started }) => started)
}

/** Its children except for the guardians. */
export function workersOf(primary: number): number[] {
  return pidsOf({ parent: primary }).filter((pid) => !/^\/bin\/sh /.test(commandOf(pid)))
}

/** Fresh connections that are in the hands of the app, by its own log: the cluster needs `env: { LOG: '1' }`. */
export async function whenInFlight(cluster: TestCluster, path: string, count: number): Promise<void> {
  const line = `stdout ${path}`
  await cluster.primary.waitFor(() => cluster.primary.lines.filter((each) => each === line).length >= count)
}

/** An app module of the test's own, to be rewritten while workers run. `body` stands before the app. */
export function writeApp(file: string, version: string, body = ''): void {
  const app = JSON.stringify(pathToFileURL(fixture('app.mjs')).href)
  writeFileSync(
    file,
    `process.env.VERSION = ${JSON.stringify(version)}\n${body}\nexport { default } from ${app}\n`,
  )
}
