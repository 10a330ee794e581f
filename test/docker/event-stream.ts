import http, { type IncomingMessage } from 'node:http'
import { track } from '../helpers/cleanup.ts'
import { until } from '../helpers/until.ts'

export interface ServerEvent {
  event: string
  data: unknown
}

export interface EventStream {
  /** All that has come so far. */
  readonly events: readonly ServerEvent[]
  /** `'whole'`: the server has ended it as HTTP wants it. `'cut'`: the connection broke. */
  readonly ended: 'whole' | 'cut' | undefined
  /** The data of the events of that name so far. */
  all<Data>(event: string): Data[]
}

/** Server-sent events, open until the test (or else the file) ends. Resolves with the first event. */
export async function openEventStream(url: string): Promise<EventStream> {
  const events: ServerEvent[] = []
  let ended: 'whole' | 'cut' | undefined
  const stream: EventStream = {
    events,
    get ended() {
      return ended
    },
    all: <Data>(event: string) =>
      events.filter((each) => each.event === event).map(({ data }) => data as Data),
  }
  const request = http.get(url, { agent: false, headers: { accept: 'text/event-stream' } })
  track({ [Symbol.asyncDispose]: async () => void request.destroy() })
  const onCut = (): void => {
    ended ??= 'cut'
  }
  request.on('error', onCut)
  request.on('response', (response: IncomingMessage) => {
    let text = ''
    response.setEncoding('utf8').on('data', (chunk: string) => {
      const blocks = (text + chunk).split('\n\n')
      text = blocks.pop() ?? ''
      for (const block of blocks) {
        const [, event, data] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? []
        if (event && data) events.push({ event, data: JSON.parse(data) })
      }
    })
    response.on('error', onCut)
    response.on('close', () => {
      ended ??= response.complete ? 'whole' : 'cut'
    })
  })
  await until(() => events.length > 0, { what: `the first event of ${url}` })
  return stream
}
