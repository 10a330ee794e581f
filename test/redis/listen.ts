import { onTestFinished } from 'vitest'
import { createRedisSource, type RedisSource } from '../../src/redis/source.ts'
import { openSubscriber, type Subscriber } from '../../src/redis/subscriber.ts'
import type { RedisOption } from '../../src/redis/target.ts'
import { until } from '../helpers/until.ts'

export interface Heard {
  subscriber: Subscriber
  messages: string[]
  /** 'up', or the reason for being down. */
  states: string[]
  upAgain(times: number, deadline?: number): Promise<unknown>
}

/** A subscriber that notes what it hears and what becomes of it; closed when the test ends. */
export function listen(redis: RedisOption | RedisSource, channel = 'channel'): Heard {
  const source =
    typeof redis === 'object' && 'target' in redis
      ? (redis as RedisSource)
      : createRedisSource(redis as RedisOption, { name: 'test', env: {}, cwd: '/' })
  const messages: string[] = []
  const states: string[] = []
  const subscriber = openSubscriber(source, {
    channel,
    connectionName: 'as-one:test-subscriber',
    onMessage: (message) => void messages.push(message.toString('latin1')),
    onUp: () => void states.push('up'),
    onDown: (reason) => void states.push(reason),
  })
  onTestFinished(() => subscriber.close())
  const ups = (): number => states.filter((state) => state === 'up').length
  return {
    subscriber,
    messages,
    states,
    upAgain: (times, deadline = 10_000) =>
      until(() => ups() >= times && subscriber.up, {
        what: `the subscriber to be up ${times} times`,
        deadline,
      }),
  }
}
