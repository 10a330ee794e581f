import diagnostics, { type Channel } from 'node:diagnostics_channel'

/**
 * The package's diagnostics channels, by room: `as-one:bus`, `as-one:cache`, `as-one:cluster`, `as-one:rate-limit`,
 * `as-one:redis`, `as-one:session`.
 * Nothing logs on its own; whoever wants words, metrics or traces subscribes here.
 */
export const channels: Readonly<
  Record<'bus' | 'cache' | 'cluster' | 'rate-limit' | 'redis' | 'session', Channel>
> = {
  bus: diagnostics.channel('as-one:bus'),
  cache: diagnostics.channel('as-one:cache'),
  cluster: diagnostics.channel('as-one:cluster'),
  'rate-limit': diagnostics.channel('as-one:rate-limit'),
  redis: diagnostics.channel('as-one:redis'),
  session: diagnostics.channel('as-one:session'),
}
