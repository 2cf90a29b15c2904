import { defineConfig } from 'vitest/config'

/** `npm run fuzz`: the suites in test/fuzz, FUZZ_RUNS times (a hundred thousand unless told). */
export default defineConfig({
  test: {
    include: ['test/fuzz/**/*.test.ts'],
    env: { FUZZ_RUNS: process.env['FUZZ_RUNS'] ?? '100000' },
    pool: 'forks',
    maxWorkers: 2,
    disableConsoleIntercept: true,
  },
})
