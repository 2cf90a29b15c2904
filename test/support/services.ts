/**
 * The programs outside npm that some suites need: a real redis-server, a real Chromium, a real Prometheus. A suite says
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

/** By name: what it is called on PATH, and which Debian package brings it. */
const PROGRAMS = {
  redis: { names: ['redis-server'], package: 'redis-server' },
  chromium: { names: CHROMIUM_NAMES, package: 'chromium' },
  prometheus: { names: ['prometheus'], package: 'prometheus' },
  promtool: { names: ['promtool'], package: 'prometheus' },
  h2load: { names: ['h2load'], package: 'nghttp2-client' },
  openssl: { names: ['openssl'], package: 'openssl' },
  curl: { names: ['curl'], package: 'curl' },
} as const

export type Services = Record<keyof typeof PROGRAMS, string | undefined>

export function findServices(): Services {
  const found = Object.entries(PROGRAMS).map(([name, { names }]) => [name, findOnPath(...names)])
  return Object.fromEntries(found) as Services
}

/** Debian packages of the programs that are not on PATH. */
export function missingPackages(): string[] {
  const found = findServices()
  const missing = (Object.keys(PROGRAMS) as (keyof Services)[]).filter((name) => found[name] === undefined)
  return [...new Set(missing.map((name) => PROGRAMS[name].package))]
}

/** Paths of the programs; undefined when not there. */
export const services: Services = findServices()

if (process.env['REQUIRE_SERVICES'] === '1' && process.env['VITEST'] !== undefined) {
  for (const [name, path] of Object.entries(services)) {
    if (path === undefined) throw new Error(`REQUIRE_SERVICES=1, and there is no ${name} on PATH`)
  }
}
