// Another machine's primary, as far as Redis and the first one can tell: it hears every message and wants none of them.
import { members, subscribe } from 'as-one'

await subscribe('bench.nothing', () => {}).ready
const met = setInterval(() => {
  if (members().length < Number(process.env.BENCH_MEMBERS)) return
  clearInterval(met)
  process.send({ ready: true })
}, 20)
