import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { track } from '../helpers/cleanup.ts'
import { until } from '../helpers/fork.ts'
import { appText, LOOK_EVERY_MS, openPlace, type Place } from './as-one.ts'

const main = new URL('../../dist/cli/main.js', import.meta.url).pathname
const hasTmux = spawnSync('tmux', ['-V']).status === 0

async function withApps(): Promise<Place> {
  const place = await openPlace()
  place.write('app.cjs', appText('1', "process.title = 'x'"))
  const entry = { name: 'a-rather-long-name-of-an-app', script: 'app.cjs', instances: 2 }
  place.write('ecosystem.config.json', JSON.stringify([entry]))
  expect(await place.run('start')).toMatchObject({ code: 0 })
  await until(async () => (await place.list())[0]?.workers.every(({ memory }) => (memory ?? 0) > 0), {
    what: 'the first heartbeats',
    deadline: 20_000,
    every: LOOK_EVERY_MS,
  })
  return place
}

test('piped: monit is one snapshot, list has every column, no colours', async () => {
  const place = await withApps()
  for (let i = 0; i < 10; i++) await place.who()
  const monit = await place.run('monit')
  expect(monit).toMatchObject({ code: 0, stderr: '' })
  expect(monit.stdout).not.toContain('\x1b')
  const rows = monit.stdout.split('\n').filter((line) => /^ +[01] /.test(line))
  expect(rows).toHaveLength(2)
  for (const row of rows)
    expect(row).toMatch(/^ +\d +\d+ +ready +\d+% +\d+mb +[\d.]+mb +\d+% +[\d.]+ms +\d+ +\d+ +0 +\d+[sm]$/)
  const [head = ''] = (await place.run('list')).stdout.split('\n')
  expect(head.trim().split(/ +/)).toEqual([
    'name',
    'mode',
    'env',
    'status',
    'ready',
    'pid',
    'uptime',
    'restarts',
    'cpu',
    'mem',
    'redis',
  ])
})

test.skipIf(!hasTmux)('in a terminal of 80 and of 120 columns (skipped without tmux)', async () => {
  const place = await withApps()
  const socket = join(place.dir, 'tmux')
  const tmux = (...args: string[]): string =>
    spawnSync('tmux', ['-S', socket, ...args], { encoding: 'utf8' }).stdout
  track({
    async [Symbol.asyncDispose]() {
      tmux('kill-server')
    },
  })
  for (const columns of [80, 120]) {
    const open = (name: string, command: string): void => {
      const line = `XDG_STATE_HOME=${place.state} ${process.execPath} ${main} ${command}`
      tmux('new-session', '-d', '-s', name, '-x', String(columns), '-y', '14', line)
    }
    const shown = (name: string): string[] => tmux('capture-pane', '-p', '-t', name).trimEnd().split('\n')
    open(`monit${columns}`, 'monit')
    // The screen that has the rows: the next look may come while it is drawn anew.
    const withRows = (): string[] | false => {
      const lines = shown(`monit${columns}`)
      return lines.filter((line) => /^ +\d +\d+ +ready/.test(line)).length === 2 && lines
    }
    const screen = await until(withRows, { what: 'two rows', deadline: 20_000 })
    expect(screen[0]).toMatch(/^as-one monit {2}\d\d:\d\d:\d\d {2}q ends$/)
    expect(Math.max(...screen.map((line) => line.length))).toBeLessThanOrEqual(columns)
    tmux('send-keys', '-t', `monit${columns}`, 'q')
    await until(() => !tmux('list-sessions').includes(`monit${columns}`), { what: 'monit to end at q' })

    open(`list${columns}`, 'list; sleep 60')
    await until(() => shown(`list${columns}`).some((line) => line.includes('online')), { what: 'the list' })
    const [head = '', row = ''] = shown(`list${columns}`)
    expect(head.includes('redis')).toBe(columns === 120)
    expect(row.startsWith('a-rather-long-name-of-an-app')).toBe(true)
    expect(row.length).toBeLessThanOrEqual(columns)
  }
})
