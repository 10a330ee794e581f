import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { track } from './cleanup.ts'
import { freePort, isFree } from './ports.ts'
import { createRng, seed } from './random.ts'
import { until } from './until.ts'

/** 'up' is client to server, 'down' is server to client. */
export type Direction = 'up' | 'down'

export interface ProxyOptions {
  target: { host?: string; port: number } | { path: string }
  /** @default a random free one */
  port?: number
}

/** A TCP proxy on 127.0.0.1 that misbehaves on demand. Without a direction, both are meant. */
export interface TcpProxy extends AsyncDisposable {
  readonly port: number
  /** @default scheme 'redis' */
  url(scheme?: string): string
  /** Live client connections. */
  readonly connections: number
  /** Client connections since the start. */
  readonly accepted: number
  /** Delivered so far. */
  readonly bytes: Readonly<Record<Direction, number>>
  /** Delays what arrives from now on by `ms` plus a seeded random part of up to `jitterMs`; never reorders. */
  delay(ms: number, jitterMs?: number, direction?: Direction): void
  /** Silence: connections stay open and new ones are accepted, but nothing passes, no FIN or RST either. */
  freeze(direction?: Direction): void
  /** What was held back is delivered. */
  unfreeze(direction?: Direction): void
  /** Where new connections lead from now on, as when a name or a floating address moves; live ones go on. */
  retarget(target: ProxyOptions['target']): void
  /** RST to both sides of all live connections. */
  reset(): void
  /** true: new connections are refused (ECONNREFUSED), live ones go on. false: accepted again. */
  refuse(refusing: boolean): Promise<void>
  /** The next `count` bytes still pass, over all connections; then the one they were for is reset. Once. */
  cutAfterBytes(count: number, direction?: Direction): void
  stop(): Promise<void>
}

interface Weather {
  delayMs: number
  jitterMs: number
  frozen: boolean
  cutAfter: number | undefined
}

/** Enough for a second of delay on a busy connection; beyond it the sender is slowed down, as on a real link. */
const maxHeldBytes = 16 * 2 ** 20

export async function startProxy({ target: firstTarget, port: wantedPort }: ProxyOptions): Promise<TcpProxy> {
  let target = firstTarget
  const rng = createRng(seed).fork('tcp-proxy')
  const weather: Record<Direction, Weather> = { up: fairWeather(), down: fairWeather() }
  const bytes: Record<Direction, number> = { up: 0, down: 0 }
  const links = new Set<Link>()
  let accepted = 0
  let server: Server | undefined

  interface Link {
    client: Socket
    pipes: Record<Direction, Pipe>
    reset(): void
  }

  function join(client: Socket): void {
    accepted++
    const upstream = connect({ ...target, allowHalfOpen: true, noDelay: true })
    const reset = () => {
      links.delete(link)
      link.pipes.up.close()
      link.pipes.down.close()
      client.resetAndDestroy()
      if ('path' in target)
        upstream.destroy() // unix sockets know no RST
      else upstream.resetAndDestroy()
    }
    const carry = (direction: Direction, from: Socket, to: Socket) =>
      createPipe({
        from,
        to,
        weather: weather[direction],
        jitter: () => rng.float(),
        delivered: (count) => {
          bytes[direction] += count
        },
        reset,
      })
    const link: Link = {
      client,
      reset,
      pipes: { up: carry('up', client, upstream), down: carry('down', upstream, client) },
    }
    links.add(link)
    for (const socket of [client, upstream]) {
      // A side that breaks, or an upstream that refuses, breaks the other one: that is all a proxy can tell.
      socket.on('error', reset)
      socket.on('close', () => {
        if (client.destroyed && upstream.destroyed) links.delete(link)
      })
    }
  }

  async function listen(onPort: number): Promise<Server> {
    const listening = createServer({ allowHalfOpen: true, noDelay: true }, join)
    listening.listen(onPort, '127.0.0.1')
    await once(listening, 'listening')
    return listening
  }

  const directions = (direction?: Direction): Direction[] => (direction ? [direction] : ['up', 'down'])

  function changeWeather(change: Partial<Weather>, direction?: Direction): void {
    for (const each of directions(direction)) {
      Object.assign(weather[each], change)
      for (const link of links) link.pipes[each].weatherChanged()
    }
  }

  server = await listen(wantedPort ?? (await freePort()))
  const { port } = server.address() as AddressInfo

  const proxy: TcpProxy = {
    port,
    url: (scheme = 'redis') => `${scheme}://127.0.0.1:${port}`,
    get connections() {
      return links.size
    },
    get accepted() {
      return accepted
    },
    bytes,
    delay: (delayMs, jitterMs = 0, direction) => changeWeather({ delayMs, jitterMs }, direction),
    freeze: (direction) => changeWeather({ frozen: true }, direction),
    unfreeze: (direction) => changeWeather({ frozen: false }, direction),
    retarget(next) {
      target = next
    },
    reset() {
      for (const link of [...links]) link.reset()
    },
    async refuse(refusing) {
      if (refusing) {
        server?.close() // live connections keep it from being closed, but not from having stopped to listen
        server = undefined
        await until(() => isFree(port), { what: `port ${port} to be free`, every: 2 })
      } else {
        server ??= await listen(port)
      }
    },
    cutAfterBytes: (count, direction = 'down') => changeWeather({ cutAfter: count }, direction),
    async stop() {
      server?.close()
      server = undefined
      proxy.reset()
    },
    [Symbol.asyncDispose]: () => proxy.stop(),
  }
  return track(proxy)
}

function fairWeather(): Weather {
  return { delayMs: 0, jitterMs: 0, frozen: false, cutAfter: undefined }
}

interface Pipe {
  weatherChanged(): void
  close(): void
}

interface PipeOptions {
  from: Socket
  to: Socket
  /** Shared by all pipes of one direction, changed from outside. */
  weather: Weather
  /** 0 to 1 */
  jitter(): number
  delivered(count: number): void
  reset(): void
}

/** One direction of one connection: a queue of chunks, each with the moment at which it is due. */
function createPipe({ from, to, weather, jitter, delivered, reset }: PipeOptions): Pipe {
  const held: { chunk: Buffer | 'end'; due: number }[] = []
  let heldBytes = 0
  let lastDue = 0
  let cut = false
  let full = false // `to` has not drained yet
  let timer: NodeJS.Timeout | undefined

  function hold(chunk: Buffer | 'end'): void {
    // Never due before what came earlier: jitter delays a stream, it does not reorder it.
    lastDue = Math.max(lastDue, performance.now() + weather.delayMs + weather.jitterMs * jitter())
    held.push({ chunk, due: lastDue })
    heldBytes += chunk.length
    deliver()
  }

  function deliver(): void {
    clearTimeout(timer)
    while (!weather.frozen && !full && !cut && held.length > 0) {
      const { chunk, due } = held[0]!
      const wait = due - performance.now()
      if (wait > 0) {
        timer = setTimeout(deliver, wait)
        break
      }
      held.shift()
      heldBytes -= chunk.length
      if (chunk === 'end') to.end()
      else if (!write(chunk)) return
    }
    // Frozen, we do not even read: a FIN or RST of the sender stays unseen too.
    if (weather.frozen || heldBytes > maxHeldBytes) from.pause()
    else from.resume()
  }

  /** False if that was the end of the connection. */
  function write(chunk: Buffer): boolean {
    const allowed = weather.cutAfter ?? chunk.length
    const passing = chunk.subarray(0, allowed)
    if (weather.cutAfter !== undefined) weather.cutAfter -= passing.length
    delivered(passing.length)
    if (passing.length < chunk.length) {
      weather.cutAfter = undefined
      cut = true
      // Not at once: a client on libuv that finds bytes and RST in one poll takes it for an orderly end.
      to.write(passing, () => setTimeout(reset, 5))
      return false
    }
    full = !to.write(passing)
    return true
  }

  from.on('data', hold)
  from.on('end', () => hold('end'))
  to.on('drain', () => {
    full = false
    deliver()
  })
  deliver() // the weather may be frozen already

  return {
    weatherChanged: deliver,
    close() {
      cut = true
      clearTimeout(timer)
      held.length = 0
    },
  }
}
