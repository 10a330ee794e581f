const LEAST_FORGOTTEN = 256

/**
 * A Map for what comes and goes all the time, such as what is under way by key. A Map makes a new table after as many
 * deletions as it has room for, with one entry at every second one, and every old table leads to its successor: once the
 * garbage collector has moved one of them to the old generation, it keeps all later ones and what they lead to. Here a
 * key that is gone keeps its place for its next time, and from time to time all such keys are forgotten together.
 */
export class PassingMap<Key, Value extends object | number> {
  #map = new Map<Key, Value | undefined>()
  #size = 0

  get size(): number {
    return this.#size
  }

  /** Those of keys that are gone included. */
  get places(): number {
    return this.#map.size
  }

  get(key: Key): Value | undefined {
    return this.#size === 0 ? undefined : this.#map.get(key)
  }

  set(key: Key, value: Value): void {
    if (this.#map.get(key) === undefined) this.#size += 1
    this.#map.set(key, value)
  }

  delete(key: Key): void {
    if (this.#size === 0 || this.#map.get(key) === undefined) return
    this.#map.set(key, undefined)
    this.#size -= 1
    const forgotten = this.#map.size - this.#size
    if (forgotten > LEAST_FORGOTTEN && forgotten > this.#size) this.#forget()
  }

  /** As they were when it was called. */
  entries(): [Key, Value][] {
    if (this.#size === 0) return []
    return [...this.#map].filter((each): each is [Key, Value] => each[1] !== undefined)
  }

  #forget(): void {
    this.#map = new Map(this.entries())
  }
}
