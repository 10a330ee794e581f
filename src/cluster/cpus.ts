import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, posix } from 'node:path'

export interface UsableCpus {
  /** At least 1; a quota of 2.5 CPUs counts as 2, so that no worker is throttled while others idle. */
  readonly count: number
  /** For people: what the count follows from. */
  readonly reason: string
}

/**
 * The CPUs this process may really use: its affinity mask, and the CPU quota of its cgroup and of all cgroups
 * above, which a container's `--cpus` or a pod's limit sets.
 */
export function usableCpus({
  available = availableParallelism(),
  root = '/',
}: {
  available?: number
  root?: string
} = {}): UsableCpus {
  const quota = smallestQuota(root)
  if (quota === undefined || quota.cpus >= available) {
    return { count: Math.max(1, available), reason: `${available} available to this process, no lower quota` }
  }
  const cpus = Number(quota.cpus.toFixed(2))
  return {
    count: Math.max(1, Math.floor(quota.cpus)),
    reason: `${quota.source} quota of ${cpus} CPUs, ${available} available`,
  }
}

interface Quota {
  readonly cpus: number
  readonly source: 'cgroup v2' | 'cgroup v1'
}

function smallestQuota(root: string): Quota | undefined {
  // One line per hierarchy, "0::/path" for version 2, "4:cpu,cpuacct:/path" for version 1; both kinds may be mounted.
  const lines = read(root, '/proc/self/cgroup')?.split('\n') ?? []
  const quotas = lines.flatMap((line): (Quota | undefined)[] => {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? []
    if (controllers === undefined || path === undefined) return []
    if (controllers === '') return pathsUpwards(path).map((group) => quotaV2(root, group))
    if (!controllers.split(',').includes('cpu')) return []
    const mounts = [...new Set([controllers, 'cpu', 'cpu,cpuacct'])]
    return mounts.flatMap((mount) => pathsUpwards(path).map((group) => quotaV1(root, `${mount}${group}`)))
  })
  return quotas.reduce(
    (smallest, quota) => (quota && !(smallest && smallest.cpus <= quota.cpus) ? quota : smallest),
    undefined,
  )
}

/** Inside a container the path may be the host's and not exist here; the mount's own root then holds the quota. */
function pathsUpwards(path: string): string[] {
  const paths = [path]
  for (let each = path; each !== '/'; ) {
    each = posix.dirname(each)
    paths.push(each)
  }
  return paths
}

function quotaV2(root: string, group: string): Quota | undefined {
  const [quota, period] = read(root, `/sys/fs/cgroup${group}/cpu.max`)?.trim().split(' ').map(Number) ?? []
  return toQuota(quota, period, 'cgroup v2') // "max 100000" becomes NaN, which is no quota
}

function quotaV1(root: string, group: string): Quota | undefined {
  const quota = read(root, `/sys/fs/cgroup/${group}/cpu.cfs_quota_us`)
  const period = read(root, `/sys/fs/cgroup/${group}/cpu.cfs_period_us`)
  return toQuota(Number(quota ?? -1), Number(period ?? 0), 'cgroup v1')
}

function toQuota(
  quota: number | undefined,
  period: number | undefined,
  source: Quota['source'],
): Quota | undefined {
  return quota && period && quota > 0 && period > 0 ? { cpus: quota / period, source } : undefined
}

function read(root: string, path: string): string | undefined {
  try {
    return readFileSync(join(root, path), 'utf8')
  } catch {
    return undefined // no cgroups here, or none at this level
  }
}
