import { close, fstat, open, read, readdir } from 'node:fs'
import { stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { type Command, Option } from 'commander'
import { SharedStateError } from '../core/errors.ts'
import { type AppRecord, appFiles, knownApps, readRecord } from './apps-dir.ts'
import { targetsOf } from './targets.ts'

interface LogOptions {
  lines: string
  follow?: boolean
  nostream?: true
  json?: true
  err?: true
  out?: true
}

interface LogSource {
  readonly path: string
  readonly app: string
  readonly worker: string
  readonly stream: 'stdout' | 'stderr'
}

const POLL_MS = 250
/** To look for the last lines in: a log of very long lines shows fewer. */
const TAIL_BYTES = 1 << 20
const MAX_LINES = 10_000

export function addLogs(program: Command): void {
  program
    .command('logs')
    .description('the last lines of apps in the background, and what comes')
    .argument('[apps...]', 'names or all; default: all')
    .option('-n, --lines <n>', 'of each file', '15')
    .addOption(new Option('-f, --follow', 'go on with what comes; default in a terminal'))
    .option('--nostream', 'do not, also in a terminal')
    .option('--json', 'each line as a JSON object')
    .addOption(new Option('--err', 'stderr only').conflicts('out'))
    .option('--out', 'stdout only')
    .addHelpText(
      'after',
      `
Examples:
  as-one logs
  as-one logs api --lines 100 --nostream
  as-one logs api --json --follow | jq .message

Rotation: logrotate may move the files; 'postrotate kill -USR1 <pid of the primary>' reopens them, or use copytruncate.
Exit codes: 0, 1 for an unknown app.`,
    )
    .action(async (apps: string[], options: LogOptions) => {
      const lines = Number(options.lines)
      if (!Number.isInteger(lines) || lines < 0 || lines > MAX_LINES)
        throw new SharedStateError(
          'ERR_AS_ONE_OPTIONS',
          `logs: --lines must be 0 to ${MAX_LINES}, got '${options.lines}'`,
        )
      const names = apps.length > 0 ? (await targetsOf(apps)).map(({ name }) => name) : await knownApps()
      const show = (source: LogSource, line: string): void => {
        process.stdout.write(
          `${options.json ? JSON.stringify(parsed(source, line)) : labelled(source, line)}\n`,
        )
      }
      const follow = options.follow ?? (process.stdout.isTTY === true && !options.nostream)
      // Whoever reads, `head` for one, may have seen enough.
      process.stdout.on('error', () => process.exit(0))
      const readers = new Map<string, Reader>()
      const look = async (tail: number): Promise<void> => {
        for (const source of await sourcesOf(names, options)) {
          let reader = readers.get(source.path)
          if (!reader) {
            reader = createReader(source.path, (line) => show(source, line))
            readers.set(source.path, reader)
            await reader.tail(tail)
          } else await reader.next()
        }
      }
      await look(lines)
      while (follow) {
        await new Promise((resolve) => setTimeout(resolve, POLL_MS))
        await look(Number.POSITIVE_INFINITY) // of a file that is new since
      }
    })
}

/** The files of an app, in the order in which they are shown. */
export function filesOf({ logs }: AppRecord): { path: string; stream: 'stdout' | 'stderr' }[] {
  const files = [
    { path: logs.error, stream: 'stderr' as const },
    { path: logs.out, stream: 'stdout' as const },
  ]
  return [
    ...new Map(files.filter(({ path }) => path !== '/dev/null').map((file) => [file.path, file])).values(),
  ]
}

async function sourcesOf(names: readonly string[], { err, out }: LogOptions): Promise<LogSource[]> {
  const sources: LogSource[] = []
  for (const app of names) {
    const record = await readRecord(app)
    if (!record) continue
    if (!err && !out) sources.push({ path: appFiles(app).primary, app, worker: 'primary', stream: 'stderr' })
    for (const { path, stream } of filesOf(record)) {
      if ((err && stream === 'stdout') || (out && stream === 'stderr')) continue
      for (const each of await expanded(path))
        sources.push({ path: each.path, app, worker: each.worker, stream })
    }
  }
  return sources
}

/** `{index}` stands for one file per worker. */
async function expanded(path: string): Promise<{ path: string; worker: string }[]> {
  if (!path.includes('{index}')) return [{ path, worker: '' }]
  const [before = '', after = ''] = basename(path).split('{index}')
  const dir = dirname(path)
  const entries = await promisify(readdir)(dir).catch((): string[] => [])
  return entries
    .map((entry) => ({ entry, worker: entry.slice(before.length, entry.length - after.length) }))
    .filter(({ entry, worker }) => entry.startsWith(before) && entry.endsWith(after) && /^\d+$/.test(worker))
    .map(({ entry, worker }) => ({ path: join(dir, entry), worker }))
}

function labelled({ app, worker }: LogSource, line: string): string {
  if (line.startsWith(`[${app}:`)) return line
  return `[${app}${worker === '' ? '' : `:${worker}`}] ${line}`
}

function parsed({ app, worker, stream }: LogSource, line: string): object {
  if (line.startsWith('{')) {
    try {
      const object = JSON.parse(line) as Record<string, unknown>
      if (object.app === app && 'message' in object) return object
    } catch {
      // a line of the app's own
    }
  }
  const [, index, message] = /^\[[^\]:]*:(\w+)\] (.*)$/s.exec(line) ?? []
  return { app, worker: index ?? worker, stream, message: message ?? line }
}

interface Reader {
  tail(lines: number): Promise<void>
  /** What has been written since, also to a file that has taken the place of the old one. */
  next(): Promise<void>
}

function createReader(path: string, onLine: (line: string) => void): Reader {
  let position = 0
  let inode = 0
  let rest = ''

  const readFrom = async (from: number): Promise<string> => {
    const fd = await promisify(open)(path, 'r')
    try {
      const { size, ino } = await promisify(fstat)(fd)
      inode = ino
      const buffer = Buffer.alloc(Math.min(size - from, TAIL_BYTES))
      const { bytesRead } = await promisify(read)(fd, buffer, 0, buffer.length, from)
      position = from + bytesRead
      return buffer.toString('utf8', 0, bytesRead)
    } finally {
      await promisify(close)(fd)
    }
  }
  const emit = (text: string): void => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    lines.forEach(onLine)
  }

  return {
    async tail(count) {
      const found = await stat(path).catch(() => undefined)
      if (!found?.isFile()) return
      const from = Math.max(0, found.size - TAIL_BYTES)
      const lines = (await readFrom(from)).split('\n')
      rest = lines.pop() ?? ''
      if (from > 0) lines.shift() // half a line
      lines.slice(Math.max(0, lines.length - count)).forEach(onLine)
    },
    async next() {
      const found = await stat(path).catch(() => undefined)
      if (!found?.isFile()) return
      if (found.ino !== inode || found.size < position) position = 0
      while (position < found.size) {
        const before = position
        emit(await readFrom(position))
        if (position === before) break
      }
    },
  }
}
