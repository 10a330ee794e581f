// A process for one contender of a suite without HTTP: opens the module it is given, runs its batches on demand.
const [, , module, options] = process.argv

const { open } = await import(module)
const contender = await open(JSON.parse(options))
await contender.check?.()
process.send({ ready: true, rssMb: process.memoryUsage.rss() / 2 ** 20 })

process.on('message', async ({ runMs, count }) => {
  const cpu = process.cpuUsage()
  const startedAt = performance.now()
  let done = 0
  let worst = 0
  if (count) done = await contender.batch(count)
  else {
    for (let now = startedAt; now - startedAt < runMs; ) {
      done += await contender.batch(contender.batchSize ?? 1_000)
      const then = performance.now()
      worst = Math.max(worst, then - now)
      now = then
    }
  }
  const us = (performance.now() - startedAt) * 1e3
  const { user, system } = process.cpuUsage(cpu)
  process.send({ done, us, cpuUs: user + system, worstMs: worst, rssMb: process.memoryUsage.rss() / 2 ** 20 })
})
process.on('SIGTERM', () => process.exit())
process.on('disconnect', () => process.exit())
