import { PassingMap } from '../core/passing-map.ts'

const LEAST_GONE = 64

interface Tagged {
  /** Those of copies that are gone included. */
  keys: Set<string>
  copies: number
}

/**
 * Keys of copies by tag, so that a hit need not look at its tags. In an L1 that is too small keys come and go all the
 * time: one whose copy has gone keeps its place, and from time to time all such keys are forgotten together.
 */
export class TaggedKeys {
  readonly #byTag = new PassingMap<string, Tagged>()
  readonly #hasCopy: (key: string, tag: string) => boolean

  constructor(hasCopy: (key: string, tag: string) => boolean) {
    this.#hasCopy = hasCopy
  }

  /** Of a copy that is there already. */
  add(key: string, tags: readonly string[]): void {
    for (const tag of tags) {
      const tagged = this.#byTag.get(tag)
      if (tagged === undefined) {
        this.#byTag.set(tag, { keys: new Set([key]), copies: 1 })
        continue
      }
      tagged.copies += 1
      tagged.keys.add(key)
      if (tagged.keys.size > 2 * tagged.copies + LEAST_GONE)
        tagged.keys = new Set([...tagged.keys].filter((each) => this.#hasCopy(each, tag)))
    }
  }

  /** Of one copy less. */
  remove(tags: readonly string[]): void {
    for (const tag of tags) {
      const tagged = this.#byTag.get(tag)
      if (tagged === undefined) continue
      tagged.copies -= 1
      if (tagged.copies === 0) this.#byTag.delete(tag)
    }
  }

  /** Among them may be keys that no longer have the tag, or no copy. */
  of(tag: string): string[] {
    return [...(this.#byTag.get(tag)?.keys ?? [])]
  }
}
