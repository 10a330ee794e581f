export { createBus } from './bus.ts'
export {
  type Announcement,
  announcedChannel,
  announcementEnv,
  openAnnouncedChannel,
  serveChannel,
} from './channel.ts'
export type { AnswerHandler, Gathered, GatherOptions, MissingReason } from './gather.ts'
export type { Hub, Receipt } from './hub.ts'
export { holdHub } from './hubs.ts'
export type { Bus, BusEvents, MachineBus, PublishOptions, Subscription } from './interface.ts'
export type { Overflow } from './lane.ts'
export type { Member } from './members.ts'
export type { BusOptions, TopicOptions } from './options.ts'
export type { Gap, GapCause } from './positions.ts'
export type { MessageHandler, MessageMeta } from './receiver.ts'
export type { TypedBus } from './typed.ts'
export type { Invalidations, InvalidationWatcher } from './watchers.ts'
