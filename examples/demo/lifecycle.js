// What only a demo has: a button that kills workers. And one that reloads all.
import { broadcast, subscribe } from 'as-one'
import { me } from './me.js'

/**
 * Why no request fails when a worker gets SIGKILL here:
 *
 * - A request that a process holds when SIGKILL comes is lost, on any server. So the worker answers what it has begun
 *   and dies in a moment when it holds nothing: a favour that this demo does itself; a `kill -9` from a shell does not wait.
 * - A connection that the primary hands over in the moment of death goes to another worker.
 * - Its kept-alive connections end without a good-bye, and a request may be on its way on one of them. Browsers send
 *   it again on a new connection, which goes to a worker that lives: Chromium whenever the connection has been used
 *   before and no byte of the answer has come, Firefox and Safari the same for GET.
 * - What is left is the first request on a new connection, sent but not yet read when SIGKILL comes: microseconds.
 *   The page would show it as failed.
 * - The event stream of the page breaks, too, and EventSource connects again by itself.
 */
let inFlight = 0
let whenIdle = () => {}

export function countInFlight(_req, res, next) {
  inFlight++
  res.once('close', () => {
    inFlight--
    setImmediate(() => whenIdle())
  })
  next()
}

/** By broadcast, since the worker that got the request is seldom the one to die. */
export function askToDie(id) {
  broadcast('demo.kill', { id, worker: me })
}

export function dieWhenAsked() {
  subscribe('demo.kill', ({ id }) => {
    if (id !== me.id) return
    setTimeout(die, 2_000) // at the latest
    whenIdle = () => inFlight === 0 && die()
    whenIdle()
  })
}

const die = () => process.kill(process.pid, 'SIGKILL')

/** SIGHUP is the primary's signal to reload. The primaries of other machines get it from their worker 0. */
export function reloadAll() {
  signalPrimary()
  broadcast('demo.reload', primary)
}

const primary = { machine: me.machine, pid: process.ppid }

subscribe('demo.reload', ({ machine, pid }) => {
  const isOurs = machine === primary.machine && pid === primary.pid
  if (me.index === 0 && !isOurs) signalPrimary()
})

function signalPrimary() {
  if (!process.connected) return // no primary, as with plain `node`: the parent is somebody's shell
  process.kill(process.ppid, 'SIGHUP')
}
