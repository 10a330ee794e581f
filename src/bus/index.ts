export type { Bus, BusEvents, MessageHandler, MessageMeta, PublishOptions, Subscription } from './bus.ts'
export { createBus } from './bus.ts'
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
