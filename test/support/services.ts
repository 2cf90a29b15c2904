/**
 * The programs outside npm that some suites need: a real redis-server, a real Chromium. A suite says
 * `describe.skipIf(!services.redis)`; under REQUIRE_SERVICES=1 (as in CI) a missing one is an error instead.
 */

import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

const CHROMIUM_NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable']

/** The full path of the first of `names` that is an executable on PATH. */
export function findOnPath(...names: string[]): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']
  for (const name of names) {
    for (const folder of folders) {
      if (folder === '') continue
      const file = join(folder, name)
      try {
        accessSync(file, constants.X_OK)
        return file
      } catch {
        // not here
      }
    }
  }
  return undefined
}

export interface Services {
  redis: string | undefined
  chromium: string | undefined
}

export function findServices(): Services {
  return { redis: findOnPath('redis-server'), chromium: findOnPath(...CHROMIUM_NAMES) }
}

/** Paths of the programs; undefined when not there. */
export const services: Services = findServices()

if (process.env['REQUIRE_SERVICES'] === '1' && process.env['VITEST'] !== undefined) {
  for (const [name, path] of Object.entries(services)) {
    if (path === undefined) throw new Error(`REQUIRE_SERVICES=1, and there is no ${name} on PATH`)
  }
}
