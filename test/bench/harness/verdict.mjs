/** The figure of one contender over another's, within one round: what the machine did meanwhile, it did to both. */
export const ratio = (metric, of, against) => (round) => round[of][metric] / round[against][metric]

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Half the distance between the quartiles, as a share of the median. */
export function spread(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))]
  return (at(0.75) - at(0.25)) / 2 / Math.abs(median(values) || 1)
}

const RESAMPLES = 4_000

/**
 * 95 % confidence interval of the median, by bootstrap; the same numbers give the same interval. Rounds of one sitting
 * share its luck, so sittings are drawn first and rounds within them: otherwise the next run would be outside too often.
 */
export function confidence(sittings) {
  const random = generator(12_345)
  const draw = (from) => from.map(() => from[Math.floor(random() * from.length)])
  const medians = Array.from({ length: RESAMPLES }, () => median(draw(sittings).flatMap(draw))).sort(
    (a, b) => a - b,
  )
  return [medians[Math.floor(RESAMPLES * 0.025)], medians[Math.ceil(RESAMPLES * 0.975) - 1]]
}

/**
 * 'met' when the whole interval lies on the good side of the bar, 'not met' when it lies on the other one, and
 * 'undecided' when the bar is within: then more rounds are needed, not another rule.
 */
export function verdictOf(bar, rounds, facts) {
  if (bar.fact) {
    const figure = bar.fact(facts)
    return { figure, low: figure, high: figure, verdict: isGood(bar, figure) ? 'met' : 'not met' }
  }
  const values = rounds.map(bar.value)
  const [low, high] = confidence(bySitting(rounds).map((each) => each.map(bar.value)))
  const both = [isGood(bar, low), isGood(bar, high)]
  const verdict = both.every(Boolean) ? 'met' : both.some(Boolean) ? 'undecided' : 'not met'
  return { figure: median(values), low, high, verdict }
}

const isGood = ({ min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY }, figure) =>
  figure >= min && figure <= max

function bySitting(rounds) {
  const sittings = new Map()
  for (const round of rounds) sittings.set(round.sitting, [...(sittings.get(round.sitting) ?? []), round])
  return [...sittings.values()]
}

/** mulberry32 */
function generator(seed) {
  let a = seed
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
