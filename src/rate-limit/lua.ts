/** The start of every script that looks at the clock: the server's, in microseconds. */
export const NOW_LUA: string = `local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stored -- what the key held, for those who may have to put it back
`

/** What the functions in sliding-window.ts and gcra.ts are asked to do. */
export const OPS: {
  readonly look: '0'
  readonly charge: '1'
  readonly force: '2'
  readonly lease: 'l'
  readonly refund: 'r'
  readonly block: 'b'
} = {
  /** Result of the first four: { 1 when the cost fits else 0, remaining, ms until it fits, ms until all is free, where it was charged }. */
  look: '0',
  /** x: ms to block the key for when the cost does not fit, 0 for none. */
  charge: '1',
  /** Charges whether it fits or not. */
  force: '2',
  /** x: how much is wanted; y: among how many what is left is divided; z: as x of charge. Result: the grant first, and last for how many ms it counts. */
  lease: 'l',
  /** x: where it was charged. Result: { 1 when there was no room before }. */
  refund: 'r',
  /** x: ms. Result: { 1 }. */
  block: 'b',
}
