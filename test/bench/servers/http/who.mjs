import { setTimeout as sleep } from 'node:timers/promises'

/** Takes a moment, so that there is always something in flight when a worker is replaced. */
export default async function who(_req, res) {
  await sleep(20)
  res.setHeader('content-type', 'application/json')
  res.end(JSON.stringify({ pid: process.pid }))
}
