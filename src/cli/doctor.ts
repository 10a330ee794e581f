import { join } from 'node:path'
import { type Command, Option } from 'commander'
import type { Cluster, Redis } from 'ioredis'
import { usableCpus } from '../cluster/index.ts'
import { appName } from '../core/app-name.ts'
import { messageOf } from '../core/errors.ts'
import { createRedisConnection } from '../redis/client.ts'
import { localRedisFiles } from '../redis/local-redis-dir.ts'
import { probeRedis, type RedisFacts } from '../redis/probe.ts'
import { findServerBinary } from '../redis/server-binary.ts'
import { createRedisSource } from '../redis/source.ts'
import { installRedis } from './install-redis.ts'

/** Shorter than a start allows itself: somebody is looking at the screen. */
const CONNECT_DEADLINE_MS = 3_000
const OLDEST_NODE = [20, 19] as const

export interface Finding {
  readonly status: 'ok' | 'warning' | 'problem'
  readonly about: 'node' | 'cpus' | 'redis'
  /** What was found and, unless it is ok, what to do. */
  readonly message: string
}

interface DoctorOptions {
  fix?: true
  json?: true
  quiet?: true
}

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('check Node, CPUs and Redis; exit code 1 if something would keep as-one from working')
    .option('--fix', 'install the redis-server package if there is no server and no REDIS_URL')
    .addOption(new Option('--json', 'print the findings as JSON').conflicts('quiet'))
    .option('--quiet', 'print problems only, so nothing when all is well')
    .action(async (options: DoctorOptions) => {
      const findings = await examine(process.env, options.fix ?? false)
      print(findings, options)
      if (findings.some(({ status }) => status === 'problem')) process.exitCode = 1
    })
}

async function examine(env: NodeJS.ProcessEnv, fix: boolean): Promise<Finding[]> {
  const redis = env.REDIS_URL ? await checkServer(env) : await checkLocal(env, fix)
  return [checkNode(process.versions.node), checkCpus(), ...redis]
}

function checkNode(version: string): Finding {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  const [oldestMajor, oldestMinor] = OLDEST_NODE
  const isNewEnough = major > oldestMajor || (major === oldestMajor && minor >= oldestMinor)
  if (isNewEnough) return { status: 'ok', about: 'node', message: `Node.js ${version}` }
  const message = `Node.js ${version} is too old: install ${OLDEST_NODE.join('.')} or newer`
  return { status: 'problem', about: 'node', message }
}

function checkCpus(): Finding {
  const { count, reason } = usableCpus()
  return {
    status: 'ok',
    about: 'cpus',
    message: `${count} worker${count === 1 ? '' : 's'} for 'max' (${reason})`,
  }
}

async function checkLocal(env: NodeJS.ProcessEnv, fix: boolean): Promise<Finding[]> {
  const findings: Finding[] = []
  try {
    if (fix) await installIfMissing(env)
    const { path, product, version } = await findServerBinary(env)
    findings.push({ status: 'ok', about: 'redis', message: `${product} ${version} at ${path}` })
    // Its path may be impossible, as without HOME, before any server is started.
    localRedisFiles({ name: appName(join(process.cwd(), 'index.js')), cwd: process.cwd(), env })
  } catch (error) {
    findings.push({ status: 'problem', about: 'redis', message: messageOf(error) })
  }
  if (env.NODE_ENV === 'production') {
    const message =
      "NODE_ENV is production and REDIS_URL is not set: set it, or pass redis: 'local' to runCluster"
    findings.push({ status: 'warning', about: 'redis', message })
  }
  return findings
}

async function installIfMissing(env: NodeJS.ProcessEnv): Promise<void> {
  try {
    await findServerBinary(env)
  } catch (error) {
    // An explicit choice is not ours to work around.
    if (env.AS_ONE_REDIS_SERVER) throw error
    await installRedis(env, (line) => process.stderr.write(`as-one: ${line}\n`))
  }
}

async function checkServer(env: NodeJS.ProcessEnv): Promise<Finding[]> {
  try {
    const source = createRedisSource(undefined, { name: 'doctor', env, cwd: process.cwd() })
    const connection = createRedisConnection(source, 'doctor')
    try {
      const client = await connection.ready({ timeoutMs: CONNECT_DEADLINE_MS })
      const servers = isCluster(client) ? client.nodes('master') : [client]
      const probed = await Promise.all(servers.map(async (server) => judge(await probeRedis(server))))
      const ok = { status: 'ok', about: 'redis', message: `${source.label} answers` } as const
      return [ok, ...withoutRepetition(probed.flat())]
    } finally {
      await connection.close()
      await source.close()
    }
  } catch (error) {
    return [{ status: 'problem', about: 'redis', message: messageOf(error) }]
  }
}

function judge(facts: RedisFacts): Finding[] {
  const { product, version, role, trackingRefused, maxMemoryBytes, evictionPolicy, persistence } = facts
  const found = (status: Finding['status'], message: string): Finding => ({ status, about: 'redis', message })
  const findings: Finding[] = []
  findings.push(
    version === undefined
      ? found(
          'warning',
          'the server does not tell its version: make sure that it is Redis >= 7.0 or Valkey >= 7.2',
        )
      : found('ok', `${product === 'valkey' ? 'Valkey' : 'Redis'} ${version}`),
  )
  if (role === 'replica')
    findings.push(found('problem', 'the server is a read-only replica: let REDIS_URL name the master'))
  findings.push(
    trackingRefused === undefined
      ? found('ok', 'CLIENT TRACKING is permitted')
      : found(
          'warning',
          `CLIENT TRACKING is refused (${trackingRefused}): caches will ask Redis at every read; permit CLIENT in the ACL`,
        ),
  )
  if (evictionPolicy !== undefined && maxMemoryBytes !== undefined) {
    findings.push(
      maxMemoryBytes > 0 && evictionPolicy !== 'noeviction'
        ? found(
            'warning',
            `maxmemory-policy is ${evictionPolicy}: a full Redis drops sessions and locks; set noeviction, or give the cache a Redis of its own`,
          )
        : found(
            'ok',
            maxMemoryBytes > 0 ? 'maxmemory-policy noeviction' : 'no maxmemory, so nothing is evicted',
          ),
    )
  }
  if (persistence === 'none') {
    findings.push(
      found('warning', 'no persistence: a restart of Redis loses all sessions; set appendonly yes'),
    )
  } else if (persistence === 'rdb') {
    findings.push(
      found(
        'warning',
        'snapshots only: a crash of Redis loses the last minutes of sessions; set appendonly yes',
      ),
    )
  } else if (persistence === 'aof') {
    findings.push(found('ok', 'append-only file'))
  }
  return findings
}

/** The masters of a cluster mostly say the same. */
function withoutRepetition(findings: readonly Finding[]): Finding[] {
  return [...new Map(findings.map((finding) => [finding.message, finding])).values()]
}

function isCluster(client: Redis | Cluster): client is Cluster {
  return 'nodes' in client
}

function print(findings: readonly Finding[], { json, quiet }: DoctorOptions): void {
  if (json) {
    const ok = findings.every(({ status }) => status !== 'problem')
    process.stdout.write(`${JSON.stringify({ ok, findings }, undefined, 2)}\n`)
    return
  }
  for (const { status, message } of findings) {
    if (!quiet || status === 'problem') process.stdout.write(`${status.padEnd(8)} ${message}\n`)
  }
}
