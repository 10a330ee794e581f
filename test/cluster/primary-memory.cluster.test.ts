import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { fixture, startCluster } from './start-cluster.ts'

const MOST_MB_OVER_BARE = 24

test('an idle primary, with its hub and its Redis connections, has not kept what loading its modules took', async () => {
  const ours = await startCluster()
  const bare = await startCluster({ script: fixture('bare-primary.mjs') })
  const over = residentMb(ours.primary.pid) - residentMb(bare.primary.pid)
  expect(over).toBeLessThan(MOST_MB_OVER_BARE)
})

function residentMb(pid: number): number {
  const kb = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  return Number(kb) / 1024
}
