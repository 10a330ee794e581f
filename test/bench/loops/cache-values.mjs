import assert from 'node:assert/strict'

export const KEYS = 500

/** About 670 bytes as JSON. */
export const product = (n) => ({
  id: n,
  name: `Product ${n}`,
  price: 4200 + n,
  description: 'made to be compared, '.repeat(26),
  tags: ['blue', 'cotton'],
  stock: { berlin: 3, lisbon: 12, oslo: 0 },
})

export const keys = Array.from({ length: KEYS }, (_, n) => `product:${n}`)

/** `operate(n)` in turn over all keys, `atOnce` at a time. */
export function batchOf(operate, atOnce) {
  let turn = 0
  const next = () => {
    turn = turn === KEYS - 1 ? 0 : turn + 1
    return operate(turn)
  }
  if (atOnce === 1)
    return async (count) => {
      for (let i = 0; i < count; i++) await next()
      return count
    }
  return async (count) => {
    for (let left = count; left > 0; left -= atOnce)
      await Promise.all(Array.from({ length: Math.min(atOnce, left) }, next))
    return count
  }
}

/** What was stored is what is read, as a value of its own. */
export async function checkValue(read) {
  for (const n of [0, 7]) assert.deepEqual(await read(n), product(n))
}
