/** More than any Redis of a busy machine is late, and less than its client waits. */
const PATIENCE_MS = 900

/**
 * For `vi.mock` of `src/redis/deadlines.ts`: a decision waits for Redis this long, instead of 90 ms. On a busy machine
 * Redis is now and then later than those, and then somebody else decides; `outage.int.test.ts` is about that.
 */
export async function patiently(
  original: () => Promise<typeof import('../../src/redis/deadlines.ts')>,
): Promise<typeof import('../../src/redis/deadlines.ts')> {
  const { Deadlines, DeadlineError } = await original()
  class PatientDeadlines extends Deadlines {
    constructor(ms: number) {
      super(Math.max(ms, PATIENCE_MS))
    }
  }
  return { Deadlines: PatientDeadlines, DeadlineError }
}
