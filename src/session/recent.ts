/** A map that forgets: it holds at least the `keep` entries used last, at most twice as many. */
export class Recent<Value> {
  readonly #keep: number
  #young = new Map<string, Value>()
  #old = new Map<string, Value>()

  constructor(keep: number) {
    this.#keep = keep
  }

  get(key: string): Value | undefined {
    const value = this.#young.get(key)
    if (value !== undefined) return value
    const older = this.#old.get(key)
    if (older !== undefined) this.set(key, older)
    return older
  }

  set(key: string, value: Value): void {
    if (this.#young.size >= this.#keep && !this.#young.has(key)) {
      this.#old = this.#young
      this.#young = new Map()
    }
    this.#young.set(key, value)
  }
}
