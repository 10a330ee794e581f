/** A hub that was heard may still be there for this long after, however silent: three heartbeats. */
const COMPANY_MS = 15_000

/**
 * Whether anybody else listens where this hub publishes. Two witnesses, each of which may be late or wrong alone: Redis
 * counts who gets a PUBLISH (not those behind a replica or a proxy), and hubs say `who` before they rely on being heard
 * (not those without the right to).
 */
export interface Company {
  /** Another hub has spoken. */
  heard(): void
  /** So many have got what we have just published, ourselves among them; undefined where Redis cannot tell. */
  counted(listeners: number | undefined): void
  /** What was counted does not hold any more. */
  forget(): void
  /** Both witnesses know of nobody. */
  readonly isAlone: boolean
}

export function createCompany(): Company {
  let listeners: number | undefined
  let heardAt = Number.NEGATIVE_INFINITY
  return {
    heard() {
      heardAt = performance.now()
    },
    counted(count) {
      listeners = count
    },
    forget() {
      listeners = undefined
    },
    get isAlone() {
      return listeners === 1 && performance.now() - heardAt > COMPANY_MS
    },
  }
}
