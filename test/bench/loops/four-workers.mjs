import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const file = (name) => fileURLToPath(new URL(name, import.meta.url))

/** Another module in four processes at once, each with a quarter of the batch. */
export async function open({ module, ...options }) {
  const args = [file(module), JSON.stringify(options)]
  const workers = Array.from({ length: 4 }, () => fork(file('host.mjs'), args))
  const answers = () => Promise.all(workers.map((worker) => once(worker, 'message')))
  await answers()
  // Nothing of them stays when their parent is killed: the end of the channel ends them.
  process.once('exit', () => {
    for (const worker of workers) worker.kill()
  })
  return {
    batchSize: 20_000,
    async batch(count) {
      const answered = answers()
      for (const worker of workers) worker.send({ count: Math.ceil(count / 4) })
      const done = await answered
      return done.reduce((sum, [{ done: each }]) => sum + each, 0)
    },
  }
}
