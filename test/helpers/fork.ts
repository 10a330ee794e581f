import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { track } from './cleanup.ts'
import { type Exit, isWatcher, spawnGuarded, treeVariable } from './guard.ts'
import { descendants, isAlive, killAll, processesIn, processesWith, sendSignal } from './processes.ts'
import { type Truthy, until } from './until.ts'

export type { Exit } from './guard.ts'
export { freePort } from './ports.ts'
export { commandOf, descendants, isAlive, pidsOf, stateOf } from './processes.ts'
export { type UntilOptions, until } from './until.ts'

export interface RunNodeOptions {
  args?: readonly string[]
  /** Added to a clean environment (see `cleanEnv`); undefined takes a variable away. */
  env?: Record<string, string | undefined>
  /** @default `stateDir`, so that nothing is written elsewhere by accident */
  cwd?: string
  /** For Node itself, before the script: `['--max-old-space-size=64']`. */
  nodeArgs?: readonly string[]
  /** Another Node binary. @default the one that runs the tests */
  node?: string
  /** With an IPC channel: send() and messages. @default false */
  ipc?: boolean
}

export interface NodeProcess extends AsyncDisposable {
  readonly pid: number
  /** XDG_STATE_HOME of the process unless `env` names another: what lives in it dies with it. */
  readonly stateDir: string
  stdout(): string
  stderr(): string
  /** Complete lines of stdout so far. */
  readonly lines: readonly string[]
  /** Messages received over IPC so far. */
  readonly messages: readonly unknown[]
  readonly exited: boolean
  /** Resolves when the process is gone and its output is complete as far as nobody else holds its pipes. */
  readonly exit: Promise<Exit>
  /** Until the expression matches the output (stdout, else stderr), or the function returns something truthy. */
  waitFor(pattern: RegExp, deadline?: number): Promise<RegExpMatchArray>
  waitFor<T>(condition: () => T | Promise<T>, deadline?: number): Promise<Truthy<T>>
  send(message: object | string): void
  /** To this process alone. @default 'SIGTERM' */
  kill(signal?: NodeJS.Signals): boolean
  /** To the process group, as a terminal does at Ctrl-C. */
  killGroup(signal: NodeJS.Signals): boolean
  /** What it has started and what still runs, orphans and detached ones included; itself not. */
  tree(): number[]
  /** SIGKILL for the process and its whole tree. Done when they are gone. */
  [Symbol.asyncDispose](): Promise<void>
}

/** Settings of the test run that would silently become settings of the app. */
const foreign =
  /^(VITEST|AS_ONE_|npm_|NODE_ENV$|NODE_OPTIONS$|REDIS_URL$|WEB_CONCURRENCY$|NODE_APP_INSTANCE$)/

/** The environment of this process without anything a test should state itself. */
export function cleanEnv(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)))
}

/** Runs a script in a Node process of its own; the test's end (or else the file's) kills its whole tree. */
export function runNode(script: string | URL, options: RunNodeOptions = {}): NodeProcess {
  const path = typeof script === 'string' ? script : fileURLToPath(script)
  const stateDir = mkdtempSync(join(tmpdir(), 'as-one-'))
  const { child, exit, tree, release } = spawnGuarded(
    options.node ?? process.execPath,
    [...(options.nodeArgs ?? []), path, ...(options.args ?? [])],
    {
      cwd: options.cwd ?? stateDir,
      env: { ...cleanEnv(), XDG_STATE_HOME: stateDir, ...options.env },
      tmp: stateDir,
      ipc: options.ipc ?? false,
      group: true,
    },
  )
  if (child.pid === undefined) throw new Error('cannot start /bin/sh')
  const { pid } = child

  const output = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      output[name] += text
    })
  }
  const messages: unknown[] = []
  child.on('message', (message) => messages.push(message))
  child.on('error', () => {}) // sending to a process that has just died

  let gone: Exit | undefined
  exit.then((how) => {
    gone = how
  })

  /** Marked, living in its directory, or started by one that is: each finds processes the others miss. */
  function remains(): number[] {
    const marked = [...processesWith(treeVariable, tree), ...processesIn(stateDir)]
    const roots = gone ? marked : [pid, ...marked] // once gone, the pid may be somebody else's
    return [...new Set(roots.flatMap((each) => [each, ...descendants(each)]))].filter(isAlive)
  }

  const started: NodeProcess = {
    pid,
    stateDir,
    stdout: () => output.stdout,
    stderr: () => output.stderr,
    get lines() {
      return output.stdout.split('\n').slice(0, -1)
    },
    messages,
    get exited() {
      return gone !== undefined
    },
    exit,
    async waitFor<T>(what: RegExp | (() => T | Promise<T>), deadline = 10_000) {
      const look =
        what instanceof RegExp ? () => output.stdout.match(what) ?? output.stderr.match(what) : what
      const outcome = await until(
        async () => {
          const over = gone // seen before looking: what came with the exit still counts
          const found = await look()
          if (found) return { found }
          return over && what instanceof RegExp ? { over } : undefined
        },
        { what: `${what} in ${path}`, deadline },
      ).catch((error: Error) => {
        throw new Error(`${error.message}\n${tail(output)}`)
      })
      if ('found' in outcome) return outcome.found
      const { code, signal } = outcome.over
      throw new Error(`${path} exited with ${signal ?? code} before ${what} came\n${tail(output)}`)
    },
    send(message) {
      child.send(message)
    },
    kill: (signal = 'SIGTERM') => child.kill(signal),
    killGroup: (signal) => sendSignal(-pid, signal),
    tree: () => remains().filter((each) => each !== pid && !isWatcher(each)),
    async [Symbol.asyncDispose]() {
      await killAll(remains)
      await exit
      release()
      await rm(stateDir, { recursive: true, force: true })
    },
  }
  return track(started)
}

function tail({ stdout, stderr }: { stdout: string; stderr: string }): string {
  const last = (text: string) => text.trimEnd().split('\n').slice(-20).join('\n')
  return `--- stdout\n${last(stdout)}\n--- stderr\n${last(stderr)}`
}
