import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { tempDir } from './cleanup.ts'
import { descendants, isAlive, pidsOf, runNode, until } from './fork.ts'

function script(source: string): string {
  const path = join(tempDir(), 'script.mjs')
  writeFileSync(path, source)
  return path
}

/** Prints the pids of a child and of a grandchild that has left the family: detached, its parent gone. */
const family = `
  import { spawn } from 'node:child_process'
  const sleeper = ['-e', 'setInterval(() => {}, 1000)']
  if (process.argv[2] === 'middle') {
    console.log('orphan', spawn(process.execPath, sleeper, { detached: true, stdio: 'ignore' }).pid)
    process.exit()
  }
  console.log('child', spawn(process.execPath, sleeper, { stdio: 'ignore' }).pid)
  spawn(process.execPath, [process.argv[1], 'middle'], { stdio: 'inherit' })
  setInterval(() => {}, 1000)
`

async function startFamily(parent = runNode(script(family))): Promise<{ child: number; orphan: number }> {
  const [, child] = await parent.waitFor(/child (\d+)/)
  const [, orphan] = await parent.waitFor(/orphan (\d+)/)
  return { child: Number(child), orphan: Number(orphan) }
}

test('output, lines, arguments and exit code', async () => {
  const source = `console.log('one ' + process.argv[2]); console.error('oops'); process.exitCode = 3`
  const run = runNode(script(source), { args: ['two'] })
  expect(await run.exit).toEqual({ code: 3, signal: null })
  expect(run.lines).toEqual(['one two'])
  expect(run.stderr()).toBe('oops\n')
})

test('the environment is clean unless stated', async () => {
  process.env.REDIS_URL = 'redis://somewhere'
  try {
    const source = `const { REDIS_URL, NODE_ENV, VITEST, GIVEN, HOME } = process.env
      console.log(JSON.stringify({ REDIS_URL, NODE_ENV, VITEST, GIVEN, HOME }))`
    const run = runNode(script(source), { env: { GIVEN: 'yes', HOME: undefined } })
    await run.exit
    expect(JSON.parse(run.stdout())).toEqual({ GIVEN: 'yes' })
  } finally {
    delete process.env.REDIS_URL
  }
})

test('IPC both ways', async () => {
  const run = runNode(script(`process.on('message', (m) => process.send({ heard: m }))`), { ipc: true })
  run.send('hello')
  await run.waitFor(() => run.messages.length > 0)
  expect(run.messages).toEqual([{ heard: 'hello' }])
})

test('waitFor fails at once, with the output, when the process has exited', async () => {
  const run = runNode(script(`console.log('only this'); process.exit(7)`))
  const startedAt = Date.now()
  await expect(run.waitFor(/never/, 20_000)).rejects.toThrow(
    /exited with 7 before \/never\/ came[\s\S]*only this/,
  )
  expect(Date.now() - startedAt).toBeLessThan(5_000)
})

test('signals go to the process or to its group', async () => {
  const stubborn = script(
    `process.on('SIGINT', () => console.log('int')); setInterval(() => {}, 1000); console.log('up')`,
  )
  const run = runNode(stubborn)
  await run.waitFor(/up/)
  run.killGroup('SIGINT')
  await run.waitFor(/int/)
  run.kill('SIGKILL')
  expect(await run.exit).toEqual({ code: null, signal: 'SIGKILL' })
})

test('disposing kills the whole tree, orphans included, and the process list shows it', async () => {
  const run = runNode(script(family))
  const { child, orphan } = await startFamily(run)
  expect(pidsOf({ parent: run.pid })).toContain(child)
  await until(() => !descendants(run.pid).includes(orphan), { what: 'the orphan to have lost its parent' })
  await until(() => run.tree().length === 2, { what: 'the tree to be child and orphan' })
  expect(run.tree().sort()).toEqual([child, orphan].sort())
  await run[Symbol.asyncDispose]()
  expect([run.pid, child, orphan].filter(isAlive)).toEqual([])
})

let leftRunning: number[] = []

test('a test that forgets its process …', async () => {
  const run = runNode(script(family))
  leftRunning = [run.pid, ...Object.values(await startFamily(run))]
})

test('… finds it gone afterwards', () => {
  expect(leftRunning).toHaveLength(3)
  expect(leftRunning.filter(isAlive)).toEqual([])
})
