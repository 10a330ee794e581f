import { runCluster } from 'as-one'

const { PORT, WORKERS, BENCH_APP, BENCH_BALANCE } = process.env
const cluster = await runCluster(() => import(BENCH_APP), {
  name: 'bench',
  port: Number(PORT),
  host: '127.0.0.1',
  workers: Number(WORKERS),
  ...(BENCH_BALANCE && { balance: BENCH_BALANCE }),
})
if (cluster.role === 'primary') console.log('ready')
