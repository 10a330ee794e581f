import assert from 'node:assert/strict'

export const WINDOW_SECONDS = 60
export const LIMIT = 1_000_000

/** `consume(key, limit)` says whether it was admitted: 64 at a time, over `keys` keys. */
export function loopOf(consume, keys) {
  const names = Array.from({ length: keys }, (_, n) => `198.51.100.${n}`)
  let turn = 0
  return {
    async check() {
      assert.equal(await consume('somebody'), true)
    },
    async batch(count) {
      for (let left = count; left > 0; left -= 64) {
        const some = Math.min(64, left)
        await Promise.all(Array.from({ length: some }, () => consume(names[turn++ % keys])))
      }
      return count
    },
  }
}
