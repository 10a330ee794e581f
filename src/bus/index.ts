export type { Bus, BusEvents, MessageHandler, MessageMeta, PublishOptions, Subscription } from './bus.ts'
export { createBus, type MachineBus } from './bus.ts'
export {
  type Announcement,
  announcedChannel,
  announcementEnv,
  openAnnouncedChannel,
  serveChannel,
} from './channel.ts'
export type { Hub, Receipt } from './hub.ts'
export { holdHub } from './hubs.ts'
export type { Member } from './members.ts'
export type { Invalidations, InvalidationWatcher } from './watchers.ts'
