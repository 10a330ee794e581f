// One process, for whoever starts several of it.
import http from 'node:http'

const { PORT, BENCH_APP } = process.env
const { default: app } = await import(BENCH_APP)
http.createServer(app).listen(Number(PORT), '127.0.0.1')
