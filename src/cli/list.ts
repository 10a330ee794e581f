import type { Command } from 'commander'
import type { WorkerStatus } from '../cluster/index.ts'
import { messageOf } from '../core/errors.ts'
import { appFiles, knownApps, readRecord } from './apps-dir.ts'
import { statusOf } from './control-client.ts'
import type { AppStatus } from './control-protocol.ts'
import { filesOf } from './logs.ts'
import { type Column, duration, plain, screen, size, table } from './table.ts'
import { targetsOf } from './targets.ts'

export interface AppLine {
  readonly name: string
  /** `died`: its primary was killed. `silent`: it does not answer. */
  readonly state: AppStatus['state'] | 'stopped' | 'died' | 'silent' | 'refused'
  readonly status: AppStatus | undefined
  /** Why it could not be asked. */
  readonly reason?: string
}

export function addList(program: Command): void {
  program
    .command('list')
    .aliases(['ls', 'l', 'ps'])
    .description('apps that run, and those that were stopped')
    .option('--json', 'print them as JSON')
    .addHelpText(
      'after',
      '\nExamples:\n  as-one list\n  as-one list --json | jq ".[].workers | length"\n\nExit code: 0.',
    )
    .action(async ({ json }: { json?: true }) => {
      const lines = await readApps(await knownApps())
      if (json) print(JSON.stringify(lines.map(toJson), undefined, 2))
      else if (lines.length === 0) print('no apps: as-one start server.js -i max')
      else print(table(lines, APP_COLUMNS, screen()).join('\n'))
    })
  program
    .command('status')
    .aliases(['describe', 'show', 'info'])
    .description('one app in full, with its workers; without a name the same as list')
    .argument('[apps...]', 'names or all')
    .option('--json', 'print it as JSON')
    .addHelpText(
      'after',
      '\nExamples:\n  as-one status api\n  as-one status api --json\n\nExit codes: 0 when all of them run, 1 when one does not.',
    )
    .action(async (apps: string[], { json }: { json?: true }) => {
      const names = apps.length > 0 ? (await targetsOf(apps)).map(({ name }) => name) : await knownApps()
      const lines = await readApps(names)
      if (lines.some(({ state }) => state !== 'online')) process.exitCode = 1
      if (json) print(JSON.stringify(lines.map(toJson), undefined, 2))
      else if (apps.length === 0) print(table(lines, APP_COLUMNS, screen()).join('\n'))
      else for (const line of lines) print((await inFull(line)).join('\n'))
    })
}

/** All at once: one that hangs holds up the others by its deadline, not by the sum of all. */
export function readApps(names: readonly string[]): Promise<AppLine[]> {
  return Promise.all(
    names.map(async (name): Promise<AppLine> => {
      try {
        const found = await statusOf(name)
        return found.state === 'runs'
          ? { name, state: found.status.state, status: found.status }
          : { name, state: found.state, status: undefined }
      } catch (error) {
        return { name, state: 'refused', status: undefined, reason: messageOf(error) }
      }
    }),
  )
}

const COLORS = {
  online: 'green',
  starting: 'yellow',
  stopping: 'yellow',
  stopped: 'gray',
  died: 'red',
  silent: 'red',
  refused: 'red',
} as const
const readyOf = ({ workers }: AppStatus): number => workers.filter(({ state }) => state === 'ready').length
export const sumOf = (
  workers: readonly WorkerStatus[],
  of: (worker: WorkerStatus) => number | undefined,
): number | undefined => {
  const known = workers.map(of).filter((value) => value !== undefined)
  return known.length === 0 ? undefined : known.reduce((sum, value) => sum + value, 0)
}
const from =
  (read: (status: AppStatus) => string): ((line: AppLine) => string) =>
  ({ status }) =>
    status ? read(status) : '-'

const APP_COLUMNS: readonly Column<AppLine>[] = [
  { title: 'name', text: ({ name }) => name },
  { title: 'mode', optional: 3, text: from(({ mode }) => mode) },
  { title: 'env', optional: 4, text: from(({ env }) => plain(env ?? '-')) },
  { title: 'status', text: ({ state }) => state, color: ({ state }) => COLORS[state] },
  {
    title: 'ready',
    right: true,
    text: from((status) => `${readyOf(status)}/${status.desired}`),
    color: ({ status }) => (status && readyOf(status) < status.desired ? 'yellow' : undefined),
  },
  { title: 'pid', right: true, optional: 2, text: from(({ pid }) => String(pid)) },
  { title: 'uptime', right: true, text: from(({ uptimeMs }) => duration(uptimeMs)) },
  {
    title: 'restarts',
    right: true,
    text: from(({ workers }) => String(sumOf(workers, ({ restarts }) => restarts) ?? 0)),
  },
  {
    title: 'cpu',
    right: true,
    text: from(({ workers }) => percent(sumOf(workers, ({ cpu }) => cpu))),
  },
  {
    title: 'mem',
    right: true,
    text: from(({ workers }) => size(sumOf(workers, ({ memory }) => memory))),
  },
  { title: 'redis', optional: 5, text: from(({ redis }) => plain(redis)) },
]

export const percent = (share: number | undefined): string =>
  share === undefined ? '-' : `${Math.round(share * 100)}%`

export const WORKER_COLUMNS: readonly Column<WorkerStatus>[] = [
  { title: 'worker', right: true, text: ({ index }) => String(index) },
  { title: 'pid', right: true, text: ({ pid }) => String(pid ?? '-') },
  {
    title: 'state',
    text: ({ state }) => state,
    color: ({ state }) => (state === 'ready' ? 'green' : state === 'parked' ? 'red' : 'yellow'),
  },
  { title: 'cpu', right: true, text: ({ cpu }) => percent(cpu) },
  { title: 'rss', right: true, text: ({ memory }) => size(memory) },
  { title: 'heap', right: true, optional: 1, text: ({ heap }) => size(heap) },
  { title: 'loop', right: true, text: ({ utilization }) => percent(utilization) },
  {
    title: 'p99',
    right: true,
    text: ({ loopDelayP99Ms: ms }) => (ms === undefined ? '-' : `${ms.toFixed(ms < 10 ? 1 : 0)}ms`),
  },
  {
    title: 'req/s',
    right: true,
    text: ({ requestsPerSecond: each }) => (each === undefined ? '-' : String(Math.round(each))),
  },
  { title: 'now', right: true, text: ({ inFlight }) => String(inFlight ?? '-') },
  { title: 'restarts', right: true, text: ({ restarts }) => String(restarts) },
  { title: 'uptime', right: true, optional: 2, text: ({ uptimeMs }) => duration(uptimeMs) },
]

async function inFull(line: AppLine): Promise<string[]> {
  const { name, state, status, reason } = line
  const record = await readRecord(name)
  const rows: [string, string][] = [
    ['app', name],
    ['status', reason ? `${state}: ${reason}` : state],
  ]
  if (status) {
    rows.push(
      ['script', plain(status.script)],
      ['cwd', plain(status.cwd)],
      ['mode', status.mode],
      ['env', status.env ?? '-'],
    )
    rows.push(
      ['pid', String(status.pid)],
      ['uptime', duration(status.uptimeMs)],
      ['redis', plain(status.redis)],
    )
    rows.push(
      ['generation', String(status.generation)],
      [
        'workers',
        `${readyOf(status)} of ${status.desired} ready${status.draining > 0 ? `, ${status.draining} draining` : ''}`,
      ],
    )
  }
  if (record)
    rows.push(
      ['file', plain(record.source.file)],
      [
        'logs',
        filesOf(record)
          .map(({ path }) => path)
          .join(' '),
      ],
    )
  rows.push(['control', appFiles(name).socket])
  const text = rows.map(([label, value]) => `${label.padEnd(10)} ${value}`)
  return status && status.workers.length > 0
    ? [...text, '', ...table(status.workers, WORKER_COLUMNS, screen()), '']
    : [...text, '']
}

function toJson({ name, state, status, reason }: AppLine): object {
  if (!status) return { name, status: state, ...(reason !== undefined && { reason }) }
  const { app: _app, state: _state, name: _packageName, ...rest } = status
  return { name, status: state, ...rest }
}

function print(text: string): void {
  process.stdout.write(`${text}\n`)
}
