/**
 * `npm test`: looks for the programs that some suites need, installs what is missing where that is possible (root and
 * apt, as in a container), and hands over to vitest, whose exit code is ours. Without them their suites are skipped
 * and a line at the end says so; with REQUIRE_SERVICES=1 that is a failure.
 */

import { spawn, spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { findOnPath, missingPackages } from './services.ts'

const APT_TIMEOUT_MS = 300_000

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

function install(packages: readonly string[]): void {
  const apt = findOnPath('apt-get')
  if (apt === undefined || process.getuid?.() !== 0) return
  console.log(`installing ${packages.join(', ')} for the tests`)
  // RUNLEVEL=1 keeps Debian's redis-server from being started as a service: the tests start their own.
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }
  const options = { stdio: 'ignore', env, timeout: APT_TIMEOUT_MS } as const
  spawnSync(apt, ['update', '-q'], options)
  for (const name of packages) spawnSync(apt, ['install', '-q', '-y', '--no-install-recommends', name], options)
}

function vitestCli(): string {
  const manifest = createRequire(import.meta.url).resolve('vitest/package.json')
  return join(dirname(manifest), 'vitest.mjs')
}

let absent = missingPackages()
if (absent.length > 0) {
  install(absent)
  absent = missingPackages()
}
const required = process.env['REQUIRE_SERVICES'] === '1'
const note = absent.join(', ')
if (absent.length > 0 && required) {
  console.error(`REQUIRE_SERVICES=1, and not on PATH: ${note}`)
  process.exit(1)
}

const child = spawn(process.execPath, [vitestCli(), 'run', ...process.argv.slice(2)], { cwd: root, stdio: 'inherit' })
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
child.on('exit', (code, signal) => {
  if (absent.length > 0) console.log(`not on PATH, so their suites were skipped: ${note}`)
  process.exitCode = code ?? (signal === null ? 1 : 130)
})
