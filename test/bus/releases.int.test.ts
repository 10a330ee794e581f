import { cpSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { tempDir } from '../helpers/cleanup.ts'
import { startRedis, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { expectBalanced, unaccounted } from './ledger.ts'
import { startMachine, type WorkerLink } from './machine.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))

/** The package as built, and the machine of the fixtures on it; `version` is that of its frames. */
function release(dir: string, version: number): string {
  mkdirSync(join(dir, 'app'), { recursive: true })
  cpSync(join(root, 'build'), join(dir, 'dist'), { recursive: true }) // not bundled: a file for each module
  cpSync(join(root, 'package.json'), join(dir, 'package.json'))
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
  cpSync(join(root, 'test/bus/fixtures/machine.mjs'), join(dir, 'app/machine.mjs'))
  const frame = join(dir, 'dist/bus/frame.js')
  const text = readFileSync(frame, 'utf8')
  expect(text).toMatch(/FRAME_VERSION = 1;/)
  writeFileSync(frame, text.replace('FRAME_VERSION = 1;', `FRAME_VERSION = ${version};`))
  return join(dir, 'app/machine.mjs')
}

/** Every message of `sender`, by number, until `listener` has received it or been told that it is missing. */
async function accounted(listener: WorkerLink, sender: WorkerLink, sent: number): Promise<number> {
  await until(async () => unaccounted(await listener.account(), sender.id, sent) === 0, {
    what: 'every message to be received or reported',
  })
  return expectBalanced(await listener.account(), sender.id, sent)
}

test('two releases on one Redis: each hears its own, and is told what it misses of the other', {
  timeout: 120_000,
}, async () => {
  const redis = await startRedis()
  const start = { redisUrl: redis.url, namespace: testNamespace(), workers: 2 }
  const [older, newer] = await Promise.all([
    startMachine(start),
    startMachine({ ...start, script: release(tempDir(), 2) }),
  ])
  for (const { workers } of [older, newer])
    for (const worker of workers) await worker.tell('burst', { count: 50 })
  for (const [mine, theirs] of [
    [older, newer],
    [newer, older],
  ] as const) {
    const [listener, sibling] = mine.workers as [WorkerLink, WorkerLink]
    expect(await accounted(listener, sibling, 50)).toBe(0)
    for (const foreign of theirs.workers) expect(await accounted(listener, foreign, 50)).toBe(50)
    const { gaps, unhandled } = await listener.account()
    expect(gaps.map(({ cause }) => cause)).toEqual(gaps.map(() => 'version'))
    expect(unhandled).toEqual([])
    expect((await listener.members()).map(({ id }) => id).sort()).toEqual(
      mine.workers.map(({ id }) => id).sort(),
    )
  }
})

test('a reload into another release: its workers are refused by the old primary, and are one bus without it', {
  timeout: 120_000,
}, async () => {
  const redis = await startRedis()
  const dir = tempDir()
  release(join(dir, 'one'), 1)
  release(join(dir, 'two'), 2)
  const current = join(dir, 'current')
  symlinkSync(join(dir, 'one'), current)
  const { primary, workers } = await startMachine({
    redisUrl: redis.url,
    namespace: testNamespace(),
    workers: 2,
    script: join(current, 'app/machine.mjs'),
  })
  const old = workers.splice(0)
  symlinkSync(join(dir, 'two'), `${current}.next`)
  renameSync(`${current}.next`, current)
  primary.kill('SIGHUP')
  await until(() => workers.length === 2, { what: 'two new workers', deadline: 40_000 })
  for (const worker of workers) await worker.tell('ready')
  const [first, second] = workers as [WorkerLink, WorkerLink]
  await until(async () => (await first.members()).length === 2, { what: 'the new ones to know each other' })
  for (const worker of workers) await worker.tell('burst', { count: 50 })
  expect(await accounted(first, second, 50)).toBe(0)
  expect(await accounted(second, first, 50)).toBe(0)
  for (const worker of workers) expect((await worker.account()).unhandled).toEqual([])
  expect(primary.exited).toBe(false)
  expect(new Set([...old, ...workers].map(({ pid }) => pid)).size).toBe(4)
})
