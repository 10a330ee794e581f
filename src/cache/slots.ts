/** At most so many at once; the others wait their turn. */
export interface Slots {
  /** Resolves to the function that gives the slot back. */
  take(): Promise<() => void>
}

export function createSlots(count: number): Slots {
  let free = count
  const queue: (() => void)[] = []
  const give = (): void => {
    const next = queue.shift()
    if (next) next()
    else free += 1
  }
  return {
    async take() {
      if (free > 0) free -= 1
      else await new Promise<void>((resolve) => queue.push(resolve))
      let given = false
      return () => {
        if (given) return
        given = true
        give()
      }
    },
  }
}
