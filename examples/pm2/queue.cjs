// A queue worker: it never listens, and finishes its job when it is asked to stop.
let jobs = 0
const timer = setInterval(() => {
  jobs += 1
  console.log(`job ${jobs}`)
}, 1_000)

process.on('SIGINT', () => {
  clearInterval(timer)
  console.log(`stopped after ${jobs} jobs`)
  process.exit(0)
})
