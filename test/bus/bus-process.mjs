// A lone process with the default bus; told over IPC what to do, and telling what it hears.
import { broadcast, defaultBus, members, publish, subscribe } from 'as-one/bus'

const commands = {
  broadcast: ({ from, to }) => {
    for (let at = from; at < to; at++) broadcast('news', at)
  },
  publish: async ({ payload }) => process.send({ receipt: await publish('news', payload) }),
  members: () => process.send({ members: members().map(({ pid }) => pid) }),
  // Nothing is left open, so the process ends by itself.
  close: async ({ last }) => {
    for (let at = 0; at < last; at++) broadcast('news', `last ${at}`)
    await defaultBus().close()
    process.disconnect()
  },
}

process.on('message', ({ command, ...options }) => commands[command](options))
const { ready } = subscribe('news', (payload, { from, self }) => process.send({ heard: payload, from, self }))
await ready
process.send({ ready: defaultBus().id })
