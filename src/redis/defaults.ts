import type { RedisSource } from './source.ts'

/** What the short forms use: set by `runCluster`, else made from the environment at the first use. */
export interface ProcessDefaults {
  readonly name: string
  readonly namespace: string
  readonly source: RedisSource
}

let defaults: ProcessDefaults | undefined

export function processDefaults(): ProcessDefaults | undefined {
  return defaults
}

export function setProcessDefaults(next: ProcessDefaults): void {
  defaults = next
}
