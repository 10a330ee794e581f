import { styleText } from 'node:util'
import type { Command } from 'commander'
import { knownApps } from './apps-dir.ts'
import { type AppLine, percent, readApps, sumOf, WORKER_COLUMNS } from './list.ts'
import { duration, plain, screen, size, table } from './table.ts'
import { targetsOf } from './targets.ts'

const EVERY_MS = 1_000
const ENTER = '\x1b[?1049h\x1b[?25l'
const LEAVE = '\x1b[?25h\x1b[?1049l'
const HOME = '\x1b[H'
const TO_END_OF_LINE = '\x1b[K'
const TO_END_OF_SCREEN = '\x1b[J'

export function addMonit(program: Command): void {
  program
    .command('monit')
    .description('one screen of all workers, once a second; one snapshot when piped')
    .argument('[apps...]', 'names or all; default: all')
    .addHelpText(
      'after',
      `
Columns: cpu (100% is one core), rss and heap, loop (share of time the event loop was busy), p99 (of its delay),
req/s, now (requests in flight), restarts (after crashes).
Keys: q or Ctrl-C ends.

Examples:
  as-one monit
  as-one monit api | cat`,
    )
    .action(async (apps: string[]) => {
      const names = async (): Promise<string[]> =>
        apps.length > 0 ? (await targetsOf(apps)).map(({ name }) => name) : await knownApps()
      if (!process.stdout.isTTY) {
        process.stdout.write(
          `${draw(await readApps(await names()), { ...screen(), height: Number.POSITIVE_INFINITY }).join('\n')}\n`,
        )
        return
      }
      await watch(async () => readApps(await names()))
    })
}

async function watch(read: () => Promise<AppLine[]>): Promise<void> {
  let ended = false
  const end = (): void => {
    if (ended) return
    ended = true
    process.stdout.write(LEAVE)
    process.exit(0)
  }
  let last: AppLine[] = []
  const paint = (): void => {
    const lines = draw(last, { ...screen(), height: process.stdout.rows })
    process.stdout.write(
      `${HOME}${lines.map((line) => line + TO_END_OF_LINE).join('\r\n')}${TO_END_OF_SCREEN}`,
    )
  }
  process.stdout.write(ENTER)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, end)
  process.on('exit', () => void (ended || process.stdout.write(LEAVE)))
  process.stdout.on('resize', paint)
  if (process.stdin.isTTY) {
    process.stdin.setRawMode(true)
    process.stdin.on('data', (key: Buffer) => {
      if (['q', '\x03', '\x1b'].includes(key.toString())) end()
    })
  }
  while (!ended) {
    last = await read()
    if (!ended) paint()
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS))
  }
}

/** As many lines as the screen has; what does not fit is counted. */
export function draw(
  apps: readonly AppLine[],
  { width, height, colors }: { width: number; height: number; colors: boolean },
): string[] {
  const bold = (text: string): string => (colors ? styleText('bold', text) : text)
  const lines: string[] = [
    bold(cut(`as-one monit  ${new Date().toTimeString().slice(0, 8)}  q ends`, width)),
    '',
  ]
  if (apps.length === 0) lines.push('no apps: as-one start server.js -i max')
  for (const { name, state, status, reason } of apps) {
    if (!status) {
      lines.push(bold(cut(`${name}  ${state}${reason === undefined ? '' : `: ${reason}`}`, width)), '')
      continue
    }
    const { workers, desired, draining, generation, env, redis, uptimeMs } = status
    const sum = `cpu ${percent(sumOf(workers, ({ cpu }) => cpu))}, ${size(sumOf(workers, ({ memory }) => memory))}, ${Math.round(sumOf(workers, ({ requestsPerSecond }) => requestsPerSecond) ?? 0)} req/s`
    const ready = workers.filter((worker) => worker.state === 'ready').length
    const leaving = draining > 0 ? `, ${draining} draining` : ''
    lines.push(bold(cut(`${name}  ${state} ${ready}/${desired}${leaving}  ${sum}`, width)))
    lines.push(
      cut(
        `${env === undefined ? '' : `env ${plain(env)}, `}generation ${generation}, up ${duration(uptimeMs)}, Redis: ${plain(redis)}`,
        width,
      ),
    )
    lines.push(...table(workers, WORKER_COLUMNS, { width, colors }), '')
  }
  if (lines.at(-1) === '') lines.pop()
  if (lines.length <= height) return lines
  const hidden = lines.length - height + 1
  return [
    ...lines.slice(0, height - 1),
    cut(`… ${hidden} more lines: as-one monit <app>, or a higher window`, width),
  ]
}

function cut(text: string, width: number): string {
  return text.length > width ? `${text.slice(0, Math.max(0, width - 1))}…` : text
}
