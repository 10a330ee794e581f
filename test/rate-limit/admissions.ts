export interface Admission {
  /** The server decided somewhere between the two. */
  sentAt: number
  answeredAt: number
  cost: number
}

/** Most that was certainly admitted within one interval of `length` ms: what was sent and answered inside it. */
export function mostWithin(length: number, admissions: readonly Admission[]): number {
  const inOrder = admissions.toSorted((a, b) => a.sentAt - b.sentAt)
  let most = 0
  for (const [first, { sentAt: from }] of inOrder.entries()) {
    let sum = 0
    for (let at = first; at < inOrder.length; at++) {
      const { sentAt, answeredAt, cost } = inOrder[at] as Admission
      if (sentAt > from + length) break
      if (answeredAt <= from + length) sum += cost
    }
    most = Math.max(most, sum)
  }
  return most
}
