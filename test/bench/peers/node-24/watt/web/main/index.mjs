import http from 'node:http'

const { default: app } = await import(process.env.BENCH_APP)

/** Watt listens itself, in each of its threads. */
export function create() {
  return http.createServer(app)
}
