import type { ClusterStatus, WorkerStatus } from '../cluster/index.ts'

/** Client and primary may be of different releases: each line says which form it has. */
export const PROTOCOL = 1
/** Of one line, with its end. Nothing we send comes near it: a status is one line per worker. */
export const MAX_LINE_BYTES: number = 64 << 10

export type Command = 'status' | 'reload' | 'restart' | 'scale' | 'stop'

export interface ControlRequest {
  readonly v: typeof PROTOCOL
  readonly command: Command
  /** Of `scale`: `4`, `+1`, `-1`. */
  readonly to?: string
  /** Of `reload` and `restart`: the `env_<name>` to change to. */
  readonly env?: string
}

export interface AppStatus extends Omit<ClusterStatus, 'workers'> {
  readonly app: string
  readonly state: 'starting' | 'online' | 'stopping'
  readonly mode: 'cluster' | 'fork'
  readonly script: string
  readonly cwd: string
  readonly file: string
  readonly env: string | undefined
  readonly uptimeMs: number
  readonly workers: readonly WorkerStatus[]
}

export type ControlReply =
  | { readonly v: typeof PROTOCOL; readonly type: 'app'; readonly app: Omit<AppStatus, 'workers'> }
  | { readonly v: typeof PROTOCOL; readonly type: 'worker'; readonly worker: WorkerStatus }
  /** While a reload runs. */
  | { readonly v: typeof PROTOCOL; readonly type: 'progress'; readonly text: string }
  | { readonly v: typeof PROTOCOL; readonly type: 'done'; readonly text?: string }
  | { readonly v: typeof PROTOCOL; readonly type: 'error'; readonly code: string; readonly message: string }

export const encode = (line: ControlRequest | Omit<ControlReply, 'v'>): string =>
  `${JSON.stringify({ v: PROTOCOL, ...line })}\n`

/** Cuts a stream into lines; `tooLong` once, when one is longer than allowed. */
export function lineReader(onLine: (line: string) => void, tooLong: () => void): (chunk: Buffer) => void {
  let rest = Buffer.alloc(0)
  let over = false
  return (chunk) => {
    if (over) return
    rest = Buffer.concat([rest, chunk])
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      if (end >= MAX_LINE_BYTES) break
      onLine(rest.toString('utf8', 0, end))
      rest = rest.subarray(end + 1)
    }
    if (rest.length < MAX_LINE_BYTES) return
    over = true
    tooLong()
  }
}
