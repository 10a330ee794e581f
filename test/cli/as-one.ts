import { cpSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { tempDir } from '../helpers/cleanup.ts'
import { type NodeProcess, type RunNodeOptions, runNode } from '../helpers/fork.ts'
import { get } from '../helpers/http.ts'
import { freePort } from '../helpers/ports.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const main = join(root, 'dist/cli/main.js')

/** Each look by `list` is a process of its own, which keeps the cores from what is waited for. */
export const LOOK_EVERY_MS = 250

export interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** A user's machine: a home, a project, and the command line. What its commands leave running ends with the test. */
export interface Place {
  /** Of the project. */
  readonly dir: string
  readonly state: string
  readonly port: number
  readonly url: string
  /** Waits until the command has ended. */
  run(...args: string[]): Promise<Outcome>
  /** Leaves it to the test what it waits for. */
  spawn(args: string[], options?: RunNodeOptions): NodeProcess
  write(file: string, text: string): string
  list(): Promise<Listed[]>
  who(): Promise<Who>
}

export interface Who {
  readonly pid: number
  readonly worker: number
  readonly env?: string
  readonly version?: string
}

export interface Listed {
  readonly name: string
  readonly status: string
  readonly pid: number
  readonly desired: number
  readonly generation: number
  readonly env?: string
  readonly mode: string
  readonly redis: string
  readonly workers: readonly {
    readonly index: number
    readonly pid: number
    readonly state: string
    readonly restarts: number
    readonly memory?: number
  }[]
}

export interface PlaceOptions {
  readonly env?: Record<string, string | undefined>
}

/** In production and without REDIS_URL, so without a Redis: these apps do not need one. */
export async function openPlace(options: PlaceOptions = {}): Promise<Place> {
  const dir = tempDir()
  const state = tempDir()
  const port = await freePort()
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
  writeFileSync(join(dir, 'package.json'), '{ "name": "shop" }') // whatever lies above a temporary directory
  const env = {
    XDG_STATE_HOME: state,
    PORT: String(port),
    NODE_ENV: 'production',
    PWD: undefined,
    ...options.env,
  }
  const spawn = (args: string[], more: RunNodeOptions = {}): NodeProcess =>
    runNode(main, { args, cwd: dir, ...more, env: { ...env, ...more.env } })
  const run = async (...args: string[]): Promise<Outcome> => {
    const started = runNode(main, { args, cwd: dir, env })
    const { code } = await started.exit
    return { code, stdout: started.stdout(), stderr: started.stderr() }
  }
  const place: Place = {
    dir,
    state,
    port,
    url: `http://127.0.0.1:${port}`,
    run,
    spawn,
    write(file, text) {
      writeFileSync(join(dir, file), text)
      return join(dir, file)
    },
    list: async () => JSON.parse((await run('list', '--json')).stdout) as Listed[],
    who: async () => (await get(`http://127.0.0.1:${port}/`)).json<Who>(),
  }
  return place
}

/** A copy of examples/<name>, since what it starts belongs to this test alone. */
export function copyExample(place: Place, name: string): void {
  cpSync(join(root, 'examples', name), place.dir, { recursive: true })
}

/** Answers who it is. `version` is what a reload can be seen by; `body` stands before it listens. */
export function appText(version = '1', body = ''): string {
  return `const http = require('node:http')
${body}
const server = http.createServer((req, res) => {
  const answer = () => res.end(JSON.stringify({ pid: process.pid, worker: Number(process.env.NODE_APP_INSTANCE), env: process.env.NODE_ENV, version: '${version}' }))
  if (req.url === '/slow') setTimeout(answer, 300)
  else answer()
})
server.listen(process.env.PORT)
`
}
