import { mkdirSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { expect, test } from 'vitest'
import { usableCpus } from '../../src/cluster/cpus.ts'
import { tempDir } from '../helpers/cleanup.ts'

function machine(files: Record<string, string>): string {
  const root = tempDir()
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), `${content}\n`)
  }
  return root
}

const count = (available: number, files: Record<string, string>): number =>
  usableCpus({ available, root: machine(files) }).count

test('without cgroups it is what the process may run on', () => {
  expect(count(6, {})).toBe(6)
  expect(count(0, {})).toBe(1)
  expect(usableCpus().count).toBeGreaterThan(0)
  expect(usableCpus().count).toBeLessThanOrEqual(availableParallelism())
})

test('cgroup v2: the smallest quota of the group and those above counts', () => {
  const inPod = { '/proc/self/cgroup': '0::/kube/pod/app' }
  expect(count(8, { ...inPod, '/sys/fs/cgroup/kube/pod/app/cpu.max': '400000 100000' })).toBe(4)
  expect(
    count(8, {
      ...inPod,
      '/sys/fs/cgroup/kube/pod/app/cpu.max': '400000 100000',
      '/sys/fs/cgroup/kube/pod/cpu.max': '150000 50000',
    }),
  ).toBe(3)
  expect(count(8, { ...inPod, '/sys/fs/cgroup/kube/pod/app/cpu.max': 'max 100000' })).toBe(8)
  expect(count(2, { ...inPod, '/sys/fs/cgroup/kube/pod/app/cpu.max': '400000 100000' })).toBe(2)
})

test('a container sees its own quota at the root of the mount', () => {
  expect(count(8, { '/proc/self/cgroup': '0::/', '/sys/fs/cgroup/cpu.max': '200000 100000' })).toBe(2)
  expect(
    count(8, {
      '/proc/self/cgroup': '5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '300000',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000',
    }),
  ).toBe(3)
})

test('cgroup v1: -1 is no quota, and the mount may be called cpu', () => {
  const files = (quota: string): Record<string, string> => ({
    '/proc/self/cgroup': '1:cpu:/app\n0::/',
    '/sys/fs/cgroup/cpu/app/cpu.cfs_quota_us': quota,
    '/sys/fs/cgroup/cpu/app/cpu.cfs_period_us': '100000',
  })
  expect(count(4, files('-1'))).toBe(4)
  expect(count(4, files('250000'))).toBe(2)
})

test('never less than one, and the reason says why', () => {
  const root = machine({ '/proc/self/cgroup': '0::/', '/sys/fs/cgroup/cpu.max': '25000 100000' })
  expect(usableCpus({ available: 4, root })).toEqual({
    count: 1,
    reason: 'cgroup v2 quota of 0.25 CPUs, 4 available',
  })
})

test('unreadable content is no quota', () => {
  expect(count(4, { '/proc/self/cgroup': 'nonsense', '/sys/fs/cgroup/cpu.max': '1 1' })).toBe(4)
  expect(count(4, { '/proc/self/cgroup': '0::/', '/sys/fs/cgroup/cpu.max': '' })).toBe(4)
})
