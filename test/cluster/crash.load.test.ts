import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { runNode } from '../helpers/fork.ts'
import { isLong, long } from '../helpers/long.ts'
import { sharedRedis } from '../helpers/redis.ts'

interface Figures {
  kind: string
  crashes: number
  answered: number
  hung: number
  longestMs: number
}

const script = fileURLToPath(new URL('../smoke/crashes.mjs', import.meta.url))

async function crash(kind: 'ours' | 'bare', crashes: number): Promise<Figures> {
  const run = runNode(script, { args: [kind, String(crashes)], env: { REDIS_URL: sharedRedis().url } })
  await run.exit
  const line = run.lines.at(-1)
  if (line === undefined) throw new Error(run.stderr())
  console.info(`[crashes] ${line}`)
  return JSON.parse(line) as Figures
}

test('a connection handed to a worker that dies before taking it goes to another: nobody is left waiting', async () => {
  const { crashes, answered, hung, longestMs } = await crash('ours', long(12, 50))
  expect({ crashes, hung }).toEqual({ crashes: long(12, 50), hung: 0 })
  expect(answered).toBeGreaterThan(crashes)
  if (isLong) expect(longestMs).toBeLessThan(1_000)
})

test.runIf(isLong)('control: bare node:cluster leaves clients waiting', async () => {
  expect((await crash('bare', 50)).hung).toBeGreaterThan(0)
})
