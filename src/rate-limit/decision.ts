import type { RateLimitDecision, RateLimitPolicy, RateLimitSource, Verdict } from './policy.ts'

/** What a refund has to know: whom, how much, and from which window. */
export interface Charge {
  readonly owner: object
  readonly id: string
  readonly cost: number
  readonly limits: readonly number[]
  /** For each policy. */
  readonly at: readonly number[]
}

export class Decision implements RateLimitDecision {
  readonly allowed: boolean
  readonly remaining: number
  readonly retryAfterMs: number
  readonly resetMs: number
  readonly policy: RateLimitPolicy
  readonly source: RateLimitSource
  declare readonly policies?: readonly (Verdict & { readonly policy: RateLimitPolicy })[]
  /** Not for everybody's eyes and JSON; taken once, so that nothing is given back twice. */
  #charge: Charge | undefined

  constructor(
    { allowed, remaining, retryAfterMs, resetMs }: Verdict,
    policy: RateLimitPolicy,
    source: RateLimitSource,
    charge?: Charge,
  ) {
    this.allowed = allowed
    this.remaining = remaining
    this.retryAfterMs = retryAfterMs
    this.resetMs = resetMs
    this.policy = policy
    this.source = source
    this.#charge = charge
  }

  /** Of several policies: refused as long as the longest wait, else as near to the limit as the nearest. */
  static ofSeveral(
    verdicts: readonly (Verdict & { readonly policy: RateLimitPolicy })[],
    source: RateLimitSource,
    charge?: Charge,
  ): Decision {
    const share = ({ remaining, policy }: (typeof verdicts)[number]): number => remaining / policy.limit
    const deciding = verdicts.reduce((worst, each) => {
      if (worst.allowed !== each.allowed) return each.allowed ? worst : each
      if (!each.allowed) return each.retryAfterMs > worst.retryAfterMs ? each : worst
      return share(each) < share(worst) ? each : worst
    })
    const decision = new Decision(deciding, deciding.policy, source, charge)
    return Object.assign(decision, { policies: verdicts })
  }

  /** The same refusal, `ms` later. */
  later(ms: number): Decision {
    const later = <V extends Verdict>(verdict: V): V => ({
      ...verdict,
      retryAfterMs: verdict.allowed ? 0 : Math.max(1, Math.ceil(verdict.retryAfterMs - ms)),
      resetMs: Math.max(0, Math.ceil(verdict.resetMs - ms)),
    })
    if (this.policies) return Decision.ofSeveral(this.policies.map(later), 'known')
    return new Decision(later<Verdict>(this), this.policy, 'known')
  }

  /** What `owner` charged for it, once. */
  static takeCharge(decision: unknown, owner: object): Charge | undefined {
    if (typeof decision !== 'object' || decision === null || !(#charge in decision)) return undefined
    const charge = decision.#charge
    if (charge?.owner !== owner) return undefined
    decision.#charge = undefined
    return charge
  }

  static isDecision(decision: unknown): decision is Decision {
    return typeof decision === 'object' && decision !== null && #charge in decision
  }
}
