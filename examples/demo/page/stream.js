/** Two bursts a second. Four at once, so that the browser holds four connections, and with them several workers. */
export const TICK_MS = 500
const AT_ONCE = 4
const MAX_OPEN = 12

/**
 * A steady stream of requests for as long as somebody looks. One of each burst counts in the session, at another place
 * each time, so that another worker gets it; never two at once, since two that read 6 would both write 7.
 */
export function startStream({ onTick, onReply }) {
  let tick = 0
  let open = 0
  let countIsOpen = false

  async function send(path, column) {
    open++
    const begun = performance.now()
    const reply = await ask('GET', path)
    open--
    onReply({ ...reply, path, column, begun })
  }

  async function sendCount(column) {
    countIsOpen = true
    await send('/api/session', column)
    countIsOpen = false
  }

  setInterval(() => {
    if (document.hidden) return
    const column = tick++
    onTick(column)
    for (let place = 0; place < AT_ONCE && open < MAX_OPEN; place++) {
      if (place === column % AT_ONCE && !countIsOpen) sendCount(column)
      else send('/api/value', column)
    }
  }, TICK_MS)
}

/** One request, never rejected: `ok` says whether a whole answer came and its status is good. */
export async function ask(method, path, body) {
  try {
    const response = await fetch(path, {
      method,
      cache: 'no-store',
      signal: AbortSignal.timeout(5_000),
      ...(body && { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
    })
    return { ok: response.ok, status: response.status, body: await response.json() }
  } catch (error) {
    return { ok: false, status: 0, body: {}, error: error.message }
  }
}
