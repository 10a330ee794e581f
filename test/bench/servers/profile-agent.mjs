// Preloaded by `npm run bench … --profile`: SIGUSR2 begins a CPU profile, the next one writes it.
import cluster from 'node:cluster'
import { writeFileSync } from 'node:fs'
import { Session } from 'node:inspector/promises'
import { join } from 'node:path'

if (cluster.isWorker) {
  const session = new Session()
  session.connect()
  let on = false
  process.on('SIGUSR2', async () => {
    if (on) {
      const { profile } = await session.post('Profiler.stop')
      writeFileSync(join(process.env.BENCH_PROFILE_DIR, `${process.pid}.cpuprofile`), JSON.stringify(profile))
      console.log('profile: written')
      return
    }
    on = true
    await session.post('Profiler.enable')
    await session.post('Profiler.setSamplingInterval', { interval: 200 })
    await session.post('Profiler.start')
    console.log('profile: on')
  })
}
