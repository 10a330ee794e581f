import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { tempDir } from './cleanup.ts'
import { isAlive, pidsOf, runNode, until } from './fork.ts'
import { sharedRedis, startRedis } from './redis.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** Set in the run that is going to be killed: the file is both runs. */
const victim = process.env.AS_ONE_TEST_VICTIM === '1'

test.skipIf(victim)('a run that is killed leaves no process and no directory behind', async () => {
  const run = runNode(join(root, 'node_modules/vitest/vitest.mjs'), {
    args: ['run', '-c', 'test/vitest.config.ts', '--project', 'integration', 'test/helpers/killed-run'],
    cwd: root,
    env: { AS_ONE_TEST_VICTIM: '1', AS_ONE_TEST_REDIS: 'binary', NO_COLOR: '1' },
  })
  const [, report] = await run.waitFor(/^victim (.*)$/m, 20_000)
  const { pids, dirs } = JSON.parse(report!) as { pids: number[]; dirs: string[] }
  expect(pids).toHaveLength(5)
  expect(pids.filter(isAlive)).toEqual(pids)
  expect(dirs.filter(existsSync)).toHaveLength(2)
  run.kill('SIGKILL')
  await until(() => !pids.some(isAlive), { what: `${pids} to be gone` })
  await until(() => !dirs.some(existsSync), { what: `${dirs} to be gone` })
})

test.runIf(victim)('waits to be killed', async () => {
  const script = join(tempDir(), 'script.mjs')
  const sleeper = `['-e', 'setInterval(() => {}, 1000)'], { detached: true, stdio: 'ignore' }`
  writeFileSync(
    script,
    `import { spawn } from 'node:child_process'
     console.log('child', spawn(process.execPath, ${sleeper}).pid)
     setInterval(() => {}, 1000)`,
  )
  const redis = await startRedis()
  await redis.pause() // frozen ones have to go too
  const run = runNode(script)
  const [, child] = await run.waitFor(/child (\d+)/)
  const shared = pidsOf(new RegExp(`127\\.0\\.0\\.1:${new URL(sharedRedis().url).port}\\b`))
  const pids = [process.pid, redis.pid, run.pid, Number(child), ...shared]
  console.log(`victim ${JSON.stringify({ pids, dirs: [redis.dir, run.stateDir] })}`)
  await new Promise(() => {})
})
