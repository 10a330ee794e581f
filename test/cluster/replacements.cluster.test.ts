import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { runNode } from '../helpers/fork.ts'
import { isLong, long } from '../helpers/long.ts'
import { sharedRedis } from '../helpers/redis.ts'

interface Figures {
  replacements: number
  answered: number
  failed: number
  forced: number | null
  byClient: Record<string, number>
  failures: Record<string, number>
}

const script = fileURLToPath(new URL('figures/replacements.mjs', import.meta.url))

async function replace(kind: 'ours' | 'bare' | 'pm2', replacements: number): Promise<Figures> {
  const env = { REDIS_URL: sharedRedis().url, PM2_BIN: process.env.PM2_BIN }
  const run = runNode(script, { args: [kind, String(replacements)], env })
  await run.exit
  const line = run.lines.at(-1)
  if (line === undefined) throw new Error(run.stderr())
  console.info(`[replacements] ${line}`)
  return JSON.parse(line) as Figures
}

const CLIENTS = [
  'keep-alive',
  'fresh',
  'POST 16 KB',
  'chunked upload',
  'event stream',
  'silent, then a request',
  'WebSocket',
]

test('workers are replaced under mixed load without a failed request or a forced kill', async () => {
  const { replacements, failed, forced, failures, byClient } = await replace('ours', long(4, 200))
  expect({ failed, forced, failures }).toEqual({ failed: 0, forced: 0, failures: {} })
  expect(replacements).toBe(long(4, 200))
  if (isLong) for (const client of CLIENTS) expect(byClient[client], client).toBeGreaterThan(0)
}, 600_000)

// The controls show that this load finds what others lose.
test.runIf(isLong)(
  'control: bare node:cluster',
  async () => {
    expect((await replace('bare', 12)).failed).toBeGreaterThan(0)
  },
  300_000,
)

test.runIf(isLong && process.env.PM2_BIN !== undefined)(
  'control: pm2 reload',
  async () => {
    expect((await replace('pm2', 12)).failed).toBeGreaterThan(0)
  },
  300_000,
)
