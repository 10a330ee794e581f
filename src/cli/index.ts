export { type AppEntry, defineConfig, type EcosystemConfig } from './define-config.ts'
