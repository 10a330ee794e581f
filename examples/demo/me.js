import { hostname } from 'node:os'
import { defaultBus } from 'as-one'

/** Which worker this process is; it stands in every answer. */
export const me = {
  id: defaultBus().id,
  index: Number(process.env.AS_ONE_WORKER ?? 0),
  pid: process.pid,
  machine: hostname(),
}
