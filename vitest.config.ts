import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    // What judges by programs that no package of CI brings runs by a command of its own.
    include: process.env['TOOLS'] === '1' ? ['test/tools/*.test.ts'] : ['test/**/*.test.ts'],
    exclude: process.env['TOOLS'] === '1' ? [] : ['test/tools/**', '**/node_modules/**'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 30_000,
  },
})
