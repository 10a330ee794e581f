const LEAST_FORGOTTEN = 256

/**
 * A Map for what comes and goes all the time, such as what is under way by key. A Map makes a new table after as many
 * deletions as it has room for, with one entry at every second one, and every old table leads to its successor: once the
 * garbage collector has moved one of them to the old generation, it keeps all later ones and what they lead to. Here a
 * key that is gone keeps its place for its next time, and from time to time all such keys are forgotten together. One
 * that comes while there is no other needs no table at all.
 */
export class PassingMap<Key, Value extends object | number> {
  #map = new Map<Key, Value | undefined>()
  #size = 0
  /** What came first; what is here is not in the table. */
  #lone: Value | undefined
  #loneKey: Key | undefined

  get size(): number {
    return this.#size
  }

  /** Those of keys that are gone included. */
  get places(): number {
    return this.#map.size
  }

  get(key: Key): Value | undefined {
    if (this.#size === 0) return undefined
    if (this.#lone === undefined) return this.#map.get(key)
    if (key === this.#loneKey) return this.#lone
    return this.#size === 1 ? undefined : this.#map.get(key)
  }

  set(key: Key, value: Value): void {
    if (this.#size === 0) {
      this.#size = 1
      this.#lone = value
      this.#loneKey = key
      return
    }
    if (this.#lone !== undefined && key === this.#loneKey) {
      this.#lone = value
      return
    }
    if (this.#map.get(key) === undefined) this.#size += 1
    this.#map.set(key, value)
  }

  delete(key: Key): void {
    if (this.#size === 0) return
    if (this.#lone !== undefined && key === this.#loneKey) {
      this.#size -= 1
      this.#lone = undefined
      this.#loneKey = undefined
      return
    }
    if (this.#map.get(key) === undefined) return
    this.#map.set(key, undefined)
    this.#size -= 1
    const forgotten = this.#map.size - this.#size
    if (forgotten > LEAST_FORGOTTEN && forgotten > this.#size) this.#forget()
  }

  /** As they were when it was called. */
  entries(): [Key, Value][] {
    const lone: [Key, Value][] = this.#lone === undefined ? [] : [[this.#loneKey as Key, this.#lone]]
    return this.#size === lone.length ? lone : [...lone, ...this.#inTable()]
  }

  #inTable(): [Key, Value][] {
    return [...this.#map].filter((each): each is [Key, Value] => each[1] !== undefined)
  }

  #forget(): void {
    this.#map = new Map(this.#inTable())
  }
}
