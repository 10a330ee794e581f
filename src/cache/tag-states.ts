/** One tag from one change of it to the next: what was made in that time has changed with it. */
export interface TagState {
  changed: boolean
}

const NONE: readonly TagState[] = []
const LEAST_FORGOTTEN = 256

/**
 * What copies look at to know whether a tag of theirs has changed. So a change is one step however many have the tag,
 * and copies that come and go cost no search by tag. Of tags that no copy has any more the states are forgotten from
 * time to time, all together.
 */
export class TagStates {
  #current = new Map<string, TagState>()
  readonly #copies: () => Iterable<{ readonly tags: readonly TagState[] }>
  #keepUntil = LEAST_FORGOTTEN
  /** Of any tag that a copy had. */
  changes = 0

  constructor(copies: () => Iterable<{ readonly tags: readonly TagState[] }>) {
    this.#copies = copies
  }

  /** For a new copy. */
  of(tags: readonly string[]): readonly TagState[] {
    if (tags.length === 0) return NONE
    const states: TagState[] = []
    for (const tag of tags) {
      let state = this.#current.get(tag)
      if (state === undefined) {
        if (this.#current.size >= this.#keepUntil) this.#forget(states)
        state = { changed: false }
        this.#current.set(tag, state)
      }
      states.push(state)
    }
    return states
  }

  change(tag: string): void {
    const state = this.#current.get(tag)
    if (state === undefined) return
    state.changed = true
    this.changes += 1
    this.#current.delete(tag)
  }

  #forget(alsoInUse: readonly TagState[]): void {
    const inUse = new Set(alsoInUse)
    for (const { tags } of this.#copies()) for (const state of tags) inUse.add(state)
    this.#current = new Map([...this.#current].filter(([, state]) => inUse.has(state)))
    this.#keepUntil = 2 * this.#current.size + LEAST_FORGOTTEN
  }
}

export function hasChanged(states: readonly TagState[]): boolean {
  for (let at = 0; at < states.length; at++) if ((states[at] as TagState).changed) return true
  return false
}
