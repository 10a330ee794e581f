import { fileURLToPath } from 'node:url'
import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config'

const root = fileURLToPath(new URL('..', import.meta.url))
const helper = (file: string): string => fileURLToPath(new URL(`helpers/${file}`, import.meta.url))

/**
 * A test file chooses its project by its suffix: `name.<suffix>.test.ts`. A new kind of test is one entry here.
 * Each project is its own group, one after the other, so that forks and failovers with deadlines do not compete
 * with property tests for the same two cores.
 */
const projects: Record<string, { suffix: string } & NonNullable<TestProjectInlineConfiguration['test']>> = {
  unit: {
    suffix: 'unit',
    isolate: false, // a process for each of 50 files would take twice the time of all their tests
  },
  integration: {
    suffix: 'int',
    testTimeout: 120_000, // failovers: see helpers/redis-sentinel.ts
    globalSetup: [helper('global-setup.ts')],
  },
  cluster: {
    suffix: 'cluster',
    globalSetup: [helper('require-dist.ts'), helper('global-setup.ts')],
    testTimeout: 120_000,
  },
  // They keep both cores busy by themselves: one after the other, and with nobody beside them.
  load: {
    suffix: 'load',
    globalSetup: [helper('require-dist.ts'), helper('global-setup.ts')],
    testTimeout: 120_000,
    fileParallelism: false,
  },
  // Needs a browser, so only `npm run test:web` asks for it.
  ...(process.env.AS_ONE_WEB === '1' && {
    web: {
      suffix: 'web',
      globalSetup: [
        helper('require-dist.ts'),
        fileURLToPath(new URL('web/require-chromium.ts', import.meta.url)),
        helper('global-setup.ts'),
      ],
      testTimeout: 120_000,
      fileParallelism: false,
    },
  }),
  // Needs Docker and its images, so only `npm run test:docker` asks for it.
  ...(process.env.AS_ONE_DOCKER === '1' && {
    docker: {
      suffix: 'docker',
      globalSetup: [fileURLToPath(new URL('docker/require-docker.ts', import.meta.url))],
      testTimeout: 120_000,
      fileParallelism: false,
    },
  }),
}

export default defineConfig({
  root,
  test: {
    // For whoever counts: `.ci/run` sums up what each run says here.
    reporters: process.env.AS_ONE_TEST_REPORT
      ? ['default', ['json', { outputFile: process.env.AS_ONE_TEST_REPORT }]]
      : ['default'],
    projects: Object.entries(projects).map(([name, { suffix, ...options }], groupOrder) => ({
      root,
      test: {
        name,
        include: [`test/**/*.${suffix}.test.ts`],
        setupFiles: [helper('setup.ts')],
        pool: 'forks',
        maxWorkers: 3, // on two cores: most of the time is spent waiting for processes and faults
        testTimeout: 30_000,
        hookTimeout: 60_000,
        sequence: { groupOrder },
        ...options,
      },
    })),
  },
})
