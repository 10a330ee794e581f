import { type Launch, type PrimaryHandle, startPrimaryOf } from '../cluster/index.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { type AppSource, resolveSource } from './app-source.ts'
import type { AppSpec } from './app-spec.ts'
import { appFiles, writeRecord } from './apps-dir.ts'
import type { AppStatus, ControlRequest } from './control-protocol.ts'
import { type ControlHandler, NameTaken, openControl } from './control-server.ts'
import type { LogPlan } from './log-plan.ts'
import { fileSink, type LogSink, printSink } from './log-sink.ts'

export interface HostOptions {
  /** In the background lines go to files; `raw`: workers write to our own stdout, as they would without us. */
  readonly output: 'files' | 'raw' | 'prefix' | 'json'
  /** Without a place for the control socket the app still runs, and nobody can reach it. */
  readonly controlRequired: boolean
}

export interface HostedApp {
  readonly name: string
  readonly handle: PrimaryHandle
  readonly warnings: readonly string[]
}

/** Makes this process the primary of an app that the command line has named, and answers its control socket. */
export async function hostApp(
  given: AppSource,
  { output, controlRequired }: HostOptions,
): Promise<HostedApp> {
  let source = given
  let spec = await resolveSource(source)
  const { name } = spec
  const environment = ownEnvironment()
  environment.apply(spec)
  const begunAt = Date.now()
  let handle: PrimaryHandle | undefined
  let sink: LogSink | undefined
  let state: AppStatus['state'] = 'starting'
  /** What a reload under way leads to, and what becomes of it when that fails. */
  let before: { source: AppSource; spec: AppSpec } | undefined

  const control: ControlHandler = async (request, reply) => {
    if (request.command === 'status') {
      const now = handle?.status()
      const { workers, ...cluster } = now ?? {
        name,
        pid: process.pid,
        redis: '',
        desired: spec.workers,
        generation: 1,
        draining: 0,
        address: undefined,
        healthPort: undefined,
        workers: [],
      }
      const { mode, script, cwd, envName } = spec
      const app = {
        ...cluster,
        app: name,
        state,
        mode,
        script,
        cwd,
        file: source.file,
        env: envName,
        uptimeMs: Date.now() - begunAt,
      }
      reply({ type: 'app', app: { ...app, env: envName } })
      for (const worker of workers) reply({ type: 'worker', worker })
      reply({ type: 'done' })
      return
    }
    if (request.command === 'stop') return stop(reply)
    if (!handle || state !== 'online')
      throw new SharedStateError('ERR_AS_ONE_CONTROL', `${name} is ${state}: try again in a moment`)
    if (request.command === 'scale') {
      const to = request.to ?? ''
      handle.scale(/^\d+$/.test(to) ? Number(to) : (to as '+1'))
      reply({ type: 'done', text: String(handle.status().desired) })
      return
    }
    await replaceAll(handle, request, (text) => reply({ type: 'progress', text }))
    reply({ type: 'done', text: String(handle.status().workers.length) })
  }

  async function stop(reply: Parameters<ControlHandler>[1]): Promise<void> {
    state = 'stopping'
    if (!handle)
      process.kill(process.pid, 'SIGTERM') // it has not come far enough to know of workers
    else await handle.stop()
    reply({ type: 'done' })
    setTimeout(() => process.exit(0), 20) // when the answer has gone out
  }

  async function replaceAll(
    of: PrimaryHandle,
    { command, env }: ControlRequest,
    progress: (text: string) => void,
  ): Promise<void> {
    const previous = source
    if (env !== undefined) source = { ...source, overrides: { ...source.overrides, env } }
    const { generation, desired } = of.status()
    let ready = 0
    const off = of.on('worker-ready', (worker) => {
      if (worker.generation <= generation) return
      ready += 1
      progress(`worker ${worker.index} is ready, pid ${worker.pid} (${ready} of ${desired})`)
    })
    try {
      // One process that does not listen may be one that must not run twice; PM2 stops it first, too.
      const mustNotOverlap = spec.mode === 'fork' && !of.status().workers.some(({ listens }) => listens)
      await (command === 'restart' || mustNotOverlap ? of.restart() : of.reload())
    } catch (error) {
      source = previous
      throw error
    } finally {
      off()
    }
  }

  async function relaunch(): Promise<Launch> {
    const next = await resolveSource(source)
    before ??= { source, spec }
    spec = { ...next, name }
    environment.apply(spec)
    return launchOf(spec)
  }

  const takeLogs = (): LogSink | undefined => {
    if (output === 'raw') return undefined
    if (output === 'files') return fileSink(name, logPlanOf(spec))
    return printSink(name, { json: output === 'json', prefix: true, date: spec.logs.format.date })
  }
  const settled = (worked: boolean): void => {
    const old = before
    before = undefined
    if (!old) return
    if (!worked) {
      spec = old.spec
      environment.apply(spec)
      return
    }
    // A number that the file has not changed is not what `scale` may have changed since.
    if (spec.workers !== old.spec.workers) handle?.scale(spec.workers)
    if (JSON.stringify(logPlanOf(spec)) !== JSON.stringify(logPlanOf(old.spec)) && output === 'files') {
      sink?.close()
      sink = takeLogs()
    }
    void remember()
  }

  let hasPlace = true
  const remember = async (): Promise<void> => {
    if (!hasPlace) return
    try {
      await writeRecord(name, { version: 1, source, logs: logPlanOf(spec) })
    } catch (error) {
      process.stderr.write(
        `as-one: cannot note how ${name} was started, so it cannot be started again by its name: ${messageOf(error)}\n`,
      )
    }
  }
  try {
    await openControl(name, appFiles(name), control)
  } catch (error) {
    if (controlRequired || error instanceof NameTaken) throw error
    hasPlace = false
    process.stderr.write(
      `as-one: nobody can list, reload or scale ${name} by name, only by signals: ${messageOf(error)}\n`,
    )
  }
  await remember()
  sink = takeLogs()
  process.once('exit', () => sink?.close())
  if (sink) process.on('SIGUSR1', () => sink?.reopen())

  handle = await startPrimaryOf(launchOf(spec), {
    relaunch,
    ...(sink && { onOutput: (...line) => sink?.onOutput(...line) }),
    onStarting(starting) {
      handle = starting
      starting.on('reloaded', () => settled(true))
      starting.on('reload-failed', () => settled(false))
    },
  })
  state = 'online'
  return { name, handle, warnings: spec.warnings }
}

function launchOf(spec: AppSpec): Launch {
  return {
    exec: spec.script,
    args: spec.args,
    cwd: spec.cwd,
    nodeArgs: spec.nodeArgs,
    waitReady: spec.waitReady,
    shutdownWithMessage: spec.shutdownMessage,
    settleMs: spec.settleMs,
    options: spec.options,
    envOf: (index) => ({
      [spec.instanceVar]: `${index}`,
      ...(spec.incrementVar !== undefined && {
        [spec.incrementVar]: String(
          Number(spec.env[spec.incrementVar] ?? process.env[spec.incrementVar] ?? 0) + index,
        ),
      }),
    }),
  }
}

/** Files that the configuration names are written as PM2 writes them; ours tell whose line it is. */
function logPlanOf({ name, logs }: AppSpec): LogPlan {
  let own: { out: string; error: string }
  try {
    own = appFiles(name)
  } catch {
    own = { out: '/dev/null', error: '/dev/null' } // in the foreground, where no file is written
  }
  const perWorker = (path: string): string =>
    logs.perWorker && path !== '/dev/null' ? path.replace(/(\.[^./]*)?$/, '-{index}$1') : path
  const isNamed = logs.out !== undefined || logs.error !== undefined
  return {
    out: perWorker(logs.out ?? own.out),
    error: perWorker(logs.error ?? own.error),
    format: { ...logs.format, prefix: !isNamed },
  }
}

/** The app's variables in this process too, where the Redis and the production rule are looked up; each reload anew. */
function ownEnvironment(): { apply(spec: AppSpec): void } {
  const original = { ...process.env }
  let applied: readonly string[] = []
  return {
    apply({ env }) {
      for (const name of applied) {
        if (original[name] === undefined) delete process.env[name]
        else process.env[name] = original[name]
      }
      Object.assign(process.env, env)
      applied = Object.keys(env)
    },
  }
}
