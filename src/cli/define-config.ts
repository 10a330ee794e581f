import type { ClusterOptions } from '../cluster/index.ts'

/** One app of an ecosystem file: PM2's keys with PM2's meaning, and `runCluster`'s options under `cluster`. */
export interface AppEntry {
  /** A file; `.ts` where this Node runs TypeScript. */
  script: string
  /** Default: the script's file name without its ending. */
  name?: string
  args?: string | readonly string[]
  /** Default: the directory of the ecosystem file. Symbolic links are followed anew at each start of a worker. */
  cwd?: string
  /** `'max'` or 0: every CPU this container may use; negative: all but so many. Without it, and without `exec_mode: 'cluster'`, one process. */
  instances?: number | 'max' | `${number}`
  exec_mode?: 'cluster' | 'fork' | 'cluster_mode' | 'fork_mode'
  /** Node's own options. */
  node_args?: string | readonly string[]
  env?: Readonly<Record<string, unknown>>
  /** On top of `env` with `--env <name>`. */
  [env: `env_${string}`]: Readonly<Record<string, unknown>>
  /** The variable `PORT`. */
  port?: number | string
  /** Default `NODE_APP_INSTANCE`. */
  instance_var?: string
  /** Variable that counts up from its value in `env`, one per instance. */
  increment_var?: string
  /** Ready when it has sent the message `'ready'`, as PM2 has it. */
  wait_ready?: boolean
  /** ms after which a script that does not listen is taken for ready, as long as none of its workers ever has. Default 3000, one process: 1000. */
  listen_timeout?: number | string
  /** ms that a worker has to stop. Default 8000 at a stop, 30000 at a reload. */
  kill_timeout?: number | string
  /** The message `'shutdown'` instead of SIGINT. */
  shutdown_with_message?: boolean
  /** Bytes, or `'300M'`: a worker above it is replaced. */
  max_memory_restart?: number | string
  autorestart?: boolean
  /** ms between a crash and the next start. */
  restart_delay?: number | string
  /** ms before the first restart, growing up to 15 s. */
  exp_backoff_restart_delay?: number | string
  /** ms; a worker that lived as long starts over with its backoff. */
  min_uptime?: number | string
  /** Read, without effect: restarts are spaced by backoff and never given up. */
  max_restarts?: number
  stop_exit_codes?: number | readonly number[]
  out_file?: string
  error_file?: string
  /** Both in one file. */
  log_file?: string
  /** `false`: a file for each instance. */
  merge_logs?: boolean
  /** As `'YYYY-MM-DD HH:mm:ss.SSS Z'`. */
  log_date_format?: string
  log_type?: 'json' | 'raw'
  /** Options of `runCluster` that PM2 has no key for; they win over those that are derived from its keys. */
  cluster?: Omit<ClusterOptions, 'name' | 'workers' | 'port' | 'host' | 'socketPath' | 'env'>
}

export interface EcosystemConfig {
  apps: readonly AppEntry[]
  [section: string]: unknown
}

/**
 * Returns its argument; for the types in an `ecosystem.config.mjs` or `.ts`.
 *
 * @example
 * import { defineConfig } from 'as-one'
 * export default defineConfig({ apps: [{ script: 'server.js', instances: 'max' }] })
 */
export function defineConfig(config: EcosystemConfig): EcosystemConfig {
  return config
}
