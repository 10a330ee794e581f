import { basename, extname, isAbsolute, resolve } from 'node:path'
import { usableCpus } from '../cluster/index.ts'
import { appName } from '../core/app-name.ts'
import { byteSize, durationMs } from '../core/duration.ts'
import { SharedStateError } from '../core/errors.ts'
import { nearest, show } from '../core/options.ts'
import type { Overrides } from './app-source.ts'
import type { LineFormat } from './log-plan.ts'

/** An app as it is run: PM2's keys in our words. */
export interface AppSpec {
  readonly name: string
  readonly mode: 'cluster' | 'fork'
  /** Absolute; symbolic links are followed when a worker starts. */
  readonly script: string
  readonly cwd: string
  readonly args: readonly string[]
  readonly nodeArgs: readonly string[]
  /** The name of the `env_…` in use. */
  readonly envName: string | undefined
  readonly env: Readonly<Record<string, string>>
  readonly instanceVar: string
  readonly incrementVar: string | undefined
  readonly waitReady: boolean
  readonly shutdownMessage: boolean
  readonly settleMs: number
  readonly workers: number
  readonly logs: {
    readonly out: string | undefined
    readonly error: string | undefined
    /** Of the files named here, one for each worker. */
    readonly perWorker: boolean
    readonly format: Omit<LineFormat, 'prefix'>
  }
  /** Of `runCluster`. */
  readonly options: Readonly<Record<string, unknown>>
  /** For whoever starts it, one sentence each. */
  readonly warnings: readonly string[]
}

/** PM2's, when an app says nothing. */
const LISTEN_TIMEOUT_MS = 3_000
/** One process need not be an HTTP app at all; PM2 takes it as started at once, which hides a script that throws. */
const ALIVE_MS = 1_000
const READY_TIMEOUT_MS = 30_000
/** Of PM2's exponential backoff. */
const EXP_BACKOFF_MAX_MS = 15_000
const NAME = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,47}$/

/** What PM2 does with these changes nothing for the app. */
const WITHOUT_EFFECT = [
  ...['vizion', 'pmx', 'automation', 'treekill', 'windowsHide', 'deep_monitoring', 'trace', 'disable_trace'],
  ...[
    'ignore_watch',
    'watch_delay',
    'watch_options',
    'max_restarts',
    'kill_retry_time',
    'version',
    'versioning',
  ],
  ...[
    'autostart',
    'force',
    'append_env_to_name',
    'autorestart',
    'updateEnv',
    'pm_id',
    'disable_source_map_support',
  ],
]
/** Left out on purpose. The app runs without them; the sentence says what to use instead. */
const REFUSED: Readonly<Record<string, string>> = {
  watch: 'is not for production: use node --watch while developing',
  cron_restart: "is left out: use a systemd timer or cron with 'as-one reload <app>'",
  cron: "is left out: use a systemd timer or cron with 'as-one reload <app>'",
  post_update: 'belongs to pm2 pull, which as-one leaves to your deployment',
  namespace:
    'groups apps in PM2, which as-one does not; the first part of the Redis keys is cluster: { namespace }',
}
/** Other spellings that PM2 takes. */
const ALIASES: Readonly<Record<string, string>> = {
  pm_exec_path: 'script',
  out: 'out_file',
  output: 'out_file',
  out_log: 'out_file',
  err: 'error_file',
  err_file: 'error_file',
  err_log: 'error_file',
  error: 'error_file',
  log: 'log_file',
  combine_logs: 'merge_logs',
  interpreter_args: 'node_args',
  interpreterArgs: 'node_args',
  interpreter_arg: 'node_args',
  exec_interpreter: 'interpreter',
  minUptime: 'min_uptime',
  maxMemoryRestart: 'max_memory_restart',
  restartDelay: 'restart_delay',
}

/** @throws SharedStateError `ERR_AS_ONE_ECOSYSTEM` */
export function nameOf(entry: Readonly<Record<string, unknown>>, at: string): string {
  const { name, script } = entry
  const given =
    typeof name === 'string' && name !== ''
      ? name
      : typeof script === 'string'
        ? basename(script, extname(script))
        : ''
  const plain = plainName(given)
  if (plain !== '') return plain
  throw new SharedStateError(
    'ERR_AS_ONE_ECOSYSTEM',
    `${at}: needs a script, a file to run, got ${show(script)}`,
  )
}

/** PM2 takes any text; here it is part of a file name. */
export function plainName(name: string): string {
  return name
    .replace(/[^A-Za-z0-9._-]+/g, '-')
    .replace(/^[.-]+/, '')
    .slice(0, 48)
}

/** @throws SharedStateError `ERR_AS_ONE_ECOSYSTEM` that names every mistake */
export function specOf(
  given: Readonly<Record<string, unknown>>,
  overrides: Overrides,
  { at, dir }: { at: string; dir: string },
): AppSpec {
  const warnings: string[] = []
  const mistakes: string[] = []
  const entry = withKnownKeys(given, at, warnings)
  const read = readerOf(entry, mistakes)

  const name = overrides.name === undefined ? nameOf(given, at) : overrides.name
  if (!NAME.test(name))
    mistakes.push(`name must be 1 to 48 letters, digits, '.', '_' or '-', got ${show(name)}`)
  const cwd = resolve(dir, overrides.cwd ?? read.text('cwd') ?? '.')
  const script = scriptIn(cwd, dir, read.text('script') ?? '', mistakes)
  const nodeArgs = [
    ...words(overrides.nodeArgs ?? entry.node_args, 'node_args', mistakes),
    ...(entry.source_map_support === true ? ['--enable-source-maps'] : []),
  ]
  checkInterpreter(entry.interpreter, mistakes)
  checkTypeScript(script, nodeArgs, mistakes)
  for (const key of ['uid', 'gid', 'user', 'username'])
    if (entry[key] !== undefined)
      mistakes.push(
        `${key} is not for as-one, which never changes its user: start it as that user, or set User= in the systemd unit`,
      )

  const envName = overrides.env
  const env = environmentOf(entry, envName, warnings, at, mistakes)
  const port = overrides.port ?? entry.port
  if (port !== undefined) env.PORT = String(port)

  const instances = overrides.instances ?? (entry.instances as unknown)
  const execMode = String(entry.exec_mode ?? (instances === undefined ? 'fork' : 'cluster')).replace(
    /_mode$/,
    '',
  )
  if (execMode !== 'cluster' && execMode !== 'fork')
    mistakes.push(`exec_mode must be 'cluster' or 'fork', got ${show(entry.exec_mode)}`)
  const mode = execMode === 'cluster' ? 'cluster' : 'fork'
  const workers = workersOf(instances, mode, mistakes)

  const listenMs = read.ms('listen_timeout')
  const maxMemory = sizeOf(overrides.maxMemory ?? entry.max_memory_restart, mistakes)
  const options = {
    name: appName(script),
    workers,
    readyTimeout: Math.max(READY_TIMEOUT_MS, listenMs ?? 0),
    ...drainOf(
      overrides.killTimeout === undefined ? read.ms('kill_timeout') : durationOf(overrides.killTimeout),
    ),
    backoff: backoffOf(read, entry, mistakes),
    ...(maxMemory !== undefined && { recycle: { maxMemory } }),
    ...(overrides.redis !== undefined && { redis: overrides.redis }),
    ...(overrides.namespace !== undefined && { namespace: overrides.namespace }),
    ...(read.object('cluster') as object),
    env,
  }
  const spec: AppSpec = {
    name,
    mode,
    script,
    cwd,
    args: [
      ...(overrides.args && overrides.args.length > 0 ? overrides.args : words(entry.args, 'args', mistakes)),
    ],
    nodeArgs,
    envName,
    env,
    instanceVar: read.text('instance_var') ?? 'NODE_APP_INSTANCE',
    incrementVar: read.text('increment_var'),
    waitReady: overrides.waitReady ?? read.flag('wait_ready') ?? false,
    shutdownMessage: read.flag('shutdown_with_message') ?? false,
    settleMs: listenMs ?? (mode === 'fork' ? ALIVE_MS : LISTEN_TIMEOUT_MS),
    workers,
    logs: logsOf(read, cwd, entry),
    options,
    warnings,
  }
  if (mistakes.length > 0) throw new SharedStateError('ERR_AS_ONE_ECOSYSTEM', `${at}: ${mistakes.join('; ')}`)
  return spec
}

const KNOWN = [
  ...[
    'name',
    'script',
    'args',
    'cwd',
    'instances',
    'exec_mode',
    'node_args',
    'interpreter',
    'env',
    'port',
    'cluster',
  ],
  ...[
    'instance_var',
    'increment_var',
    'wait_ready',
    'listen_timeout',
    'kill_timeout',
    'shutdown_with_message',
  ],
  ...[
    'max_memory_restart',
    'autorestart',
    'restart_delay',
    'exp_backoff_restart_delay',
    'min_uptime',
    'stop_exit_codes',
  ],
  ...[
    'out_file',
    'error_file',
    'log_file',
    'merge_logs',
    'log_date_format',
    'log_type',
    'time',
    'disable_logs',
  ],
  ...['source_map_support', 'uid', 'gid', 'user', 'username'],
]

/** Under one spelling each, and a warning for every key that is not for us. */
function withKnownKeys(
  given: Readonly<Record<string, unknown>>,
  at: string,
  warnings: string[],
): Record<string, unknown> {
  const entry: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue
    const plain = Object.hasOwn(ALIASES, key) ? (ALIASES[key] as string) : key
    if (Object.hasOwn(REFUSED, key)) {
      if (value !== false) warnings.push(`${at}: ${key} ${REFUSED[key]}`)
    } else if (KNOWN.includes(plain) || /^env_./.test(key)) entry[plain] = value
    else if (!WITHOUT_EFFECT.includes(key)) {
      const meant = nearest(key, [...KNOWN, ...WITHOUT_EFFECT, ...Object.keys(REFUSED)])
      warnings.push(
        `${at}: ${key} is not a key that as-one knows, and is left out${meant ? `; did you mean ${meant}?` : ''}`,
      )
    }
  }
  return entry
}

interface Reader {
  text(key: string): string | undefined
  flag(key: string): boolean | undefined
  ms(key: string): number | undefined
  object(key: string): unknown
}

function readerOf(entry: Readonly<Record<string, unknown>>, mistakes: string[]): Reader {
  const read = <T>(key: string, wanted: string, accept: (value: unknown) => T | undefined): T | undefined => {
    const value = entry[key]
    if (value === undefined) return undefined
    const accepted = accept(value)
    if (accepted === undefined) mistakes.push(`${key} must be ${wanted}, got ${show(value)}`)
    return accepted
  }
  return {
    text: (key) =>
      read(key, 'a text', (value) => (typeof value === 'string' && value !== '' ? value : undefined)),
    flag: (key) =>
      read(key, 'true or false', (value) =>
        typeof value === 'boolean' ? value : value === 'true' ? true : value === 'false' ? false : undefined,
      ),
    ms: (key) => read(key, "milliseconds, or a text such as '5s'", durationOf),
    object: (key) =>
      read(key, 'an object', (value) =>
        typeof value === 'object' && !Array.isArray(value) ? value : undefined,
      ),
  }
}

/** PM2 also takes a number as text. */
function durationOf(value: unknown): number | undefined {
  return durationMs(typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value)
}

function sizeOf(value: unknown, mistakes: string[]): number | undefined {
  if (value === undefined) return undefined
  const text = typeof value === 'string' ? value.trim() : ''
  const bytes = /^\d+$/.test(text) ? Number(text) : byteSize(/^[\d.]+[KMG]$/i.test(text) ? `${text}b` : value)
  if (bytes === undefined || bytes === 0)
    mistakes.push(`max_memory_restart must be bytes or a text such as '300M', got ${show(value)}`)
  return bytes || undefined
}

/** As a shell splits it, with quotes and without anything else. */
function words(value: unknown, key: string, mistakes: string[]): string[] {
  if (value === undefined) return []
  if (Array.isArray(value)) return value.map(String)
  if (typeof value !== 'string') {
    mistakes.push(`${key} must be a text or a list of texts, got ${show(value)}`)
    return []
  }
  return [...value.matchAll(/(?:"([^"]*)"|'([^']*)'|[^\s"']+)+/g)].map(([word]) =>
    word.replace(/"([^"]*)"|'([^']*)'/g, '$1$2'),
  )
}

function scriptIn(cwd: string, dir: string, script: string, mistakes: string[]): string {
  if (script === '') mistakes.push('script is missing: the file to run')
  if (/^(npm|npx|yarn|pnpm|bash|sh|python3?|ruby|php|java)$/.test(script))
    mistakes.push(
      `script '${script}' is no Node script, and as-one runs nothing else: name the file that it would start`,
    )
  return isAbsolute(script) ? script : resolve(cwd === '' ? dir : cwd, script)
}

function checkInterpreter(value: unknown, mistakes: string[]): void {
  if (value === undefined || basename(String(value)) === 'node') return
  mistakes.push(
    `interpreter ${show(value)} is left out: as-one runs Node scripts; for another runtime use systemd or a container`,
  )
}

function checkTypeScript(script: string, nodeArgs: readonly string[], mistakes: string[]): void {
  const canStrip = Boolean((process.features as { typescript?: unknown }).typescript)
  const hasLoader = nodeArgs.some((arg) =>
    /^(--import|--loader|--experimental-loader|-r|--require|--experimental-strip-types)(=|$)/.test(arg),
  )
  if (!/\.[cm]?ts$/.test(script) || canStrip || hasLoader) return
  mistakes.push(
    `script ${basename(script)} is TypeScript, which Node.js ${process.versions.node} cannot run: use 22.18 or newer, compile it, or set node_args: '--import tsx'`,
  )
}

function environmentOf(
  entry: Readonly<Record<string, unknown>>,
  envName: string | undefined,
  warnings: string[],
  at: string,
  mistakes: string[],
): Record<string, string> {
  const env: Record<string, string> = {}
  const add = (key: string): void => {
    const values = entry[key]
    if (values === undefined) return
    if (typeof values !== 'object' || Array.isArray(values)) {
      mistakes.push(`${key} must be an object, got ${show(values)}`)
      return
    }
    for (const [name, value] of Object.entries(values as object))
      if (value !== undefined && value !== null)
        env[name] = typeof value === 'object' ? JSON.stringify(value) : String(value)
  }
  add('env')
  if (envName !== undefined) {
    if (!(`env_${envName}` in entry)) {
      const others = Object.keys(entry)
        .filter((key) => key.startsWith('env_'))
        .map((key) => key.slice(4))
      const meant = nearest(envName, others)
      warnings.push(
        `${at}: has no env_${envName}, so --env ${envName} changes nothing${meant ? `; did you mean ${meant}?` : ''}`,
      )
    }
    add(`env_${envName}`)
  }
  return env
}

function workersOf(instances: unknown, mode: 'cluster' | 'fork', mistakes: string[]): number {
  if (instances === undefined) return mode === 'fork' ? 1 : Number(process.env.WEB_CONCURRENCY) || 1
  const { count } = usableCpus()
  const percent = /^(\d{1,3})%$/.exec(String(instances))?.[1]
  if (percent !== undefined && Number(percent) > 0)
    return Math.max(1, Math.floor((count * Number(percent)) / 100))
  const n = instances === 'max' ? 0 : Number(String(instances))
  if (!Number.isInteger(n) || n > 1_024) {
    mistakes.push(`instances must be a number, 'max' or '50%', got ${show(instances)}`)
    return 1
  }
  return n > 0 ? n : Math.max(1, count + n)
}

/** Both deadlines, and the linger within them. */
function drainOf(killMs: number | undefined): object {
  if (killMs === undefined) return {}
  const timeout = Math.max(100, killMs)
  return {
    drain: { stopTimeout: timeout, reloadTimeout: timeout, linger: Math.min(1_000, Math.floor(timeout / 2)) },
  }
}

function backoffOf(read: Reader, entry: Readonly<Record<string, unknown>>, mistakes: string[]): object {
  const fixed = read.ms('restart_delay')
  const growing = read.ms('exp_backoff_restart_delay')
  const stable = read.ms('min_uptime')
  const given = entry.stop_exit_codes
  const codes = given === undefined ? [] : (Array.isArray(given) ? given : [given]).map(Number)
  if (codes.some((code) => !Number.isInteger(code) || code < 0 || code > 255))
    mistakes.push('stop_exit_codes must be exit codes from 0 to 255')
  const never = read.flag('autorestart') === false
  return {
    ...(growing
      ? { min: growing, max: Math.max(growing, EXP_BACKOFF_MAX_MS) }
      : fixed
        ? { min: fixed, max: fixed }
        : {}),
    ...(stable === undefined ? {} : { stableAfter: stable }),
    ...(never
      ? { stopExitCodes: Array.from({ length: 256 }, (_, code) => code) }
      : codes.length > 0
        ? { stopExitCodes: codes }
        : {}),
  }
}

function logsOf(read: Reader, cwd: string, entry: Readonly<Record<string, unknown>>): AppSpec['logs'] {
  const none = read.flag('disable_logs') ? '/dev/null' : undefined
  const file = (key: string): string | undefined => {
    const path = read.text(key)
    return path === undefined ? undefined : /^null$/i.test(path) ? '/dev/null' : resolve(cwd, path)
  }
  const both = file('log_file')
  const date = read.text('log_date_format') ?? (entry.time === true ? 'YYYY-MM-DDTHH:mm:ss' : undefined)
  return {
    out: none ?? file('out_file') ?? both,
    error: none ?? file('error_file') ?? both,
    perWorker: read.flag('merge_logs') === false,
    format: { json: entry.log_type === 'json', ...(date !== undefined && { date }) },
  }
}
