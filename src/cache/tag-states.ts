import { PassingMap } from '../core/passing-map.ts'

/** One tag from one change of it to the next: what was made in that time has changed with it. */
export interface TagState {
  readonly tag: string
  /** Copies that have it. */
  copies: number
  changed: boolean
}

const NONE: readonly TagState[] = []

/**
 * What copies look at to know whether a tag of theirs has changed. So a change is one step however many have the tag,
 * and copies that come and go cost no search by tag.
 */
export class TagStates {
  readonly #current = new PassingMap<string, TagState>()

  /** For a new copy. */
  enter(tags: readonly string[]): readonly TagState[] {
    if (tags.length === 0) return NONE
    const states: TagState[] = []
    for (const tag of tags) {
      let state = this.#current.get(tag)
      if (state === undefined) {
        state = { tag, copies: 0, changed: false }
        this.#current.set(tag, state)
      }
      state.copies += 1
      states.push(state)
    }
    return states
  }

  /** Of a copy that has gone. */
  leave(states: readonly TagState[]): void {
    for (let at = 0; at < states.length; at++) {
      const state = states[at] as TagState
      state.copies -= 1
      if (state.copies === 0 && !state.changed) this.#current.delete(state.tag)
    }
  }

  change(tag: string): void {
    const state = this.#current.get(tag)
    if (state === undefined) return
    state.changed = true
    this.#current.delete(tag)
  }
}

export function hasChanged(states: readonly TagState[]): boolean {
  for (let at = 0; at < states.length; at++) if ((states[at] as TagState).changed) return true
  return false
}
