/**
 * `node scripts/audit.ts`: asks the registry for known vulnerabilities, high or critical, in the packages that are shipped.
 * Only a finding fails. A registry that has no such service (many mirrors do not), or is out of reach, is said and passes:
 * whether a change is good must not hang on the network.
 */

import { spawnSync } from 'node:child_process'

const TIMEOUT_MS = 60_000

interface Report {
  metadata?: { vulnerabilities?: { high?: number; critical?: number } }
  vulnerabilities?: Record<string, { severity: string; range: string }>
  message?: string
}

const args = ['audit', '--omit=dev', '--audit-level=high', '--json', '--fetch-retries=1', '--fetch-timeout=20000']
const { stdout, error } = spawnSync('npm', args, { encoding: 'utf8', timeout: TIMEOUT_MS })

const report = read(stdout)
const counts = report.metadata?.vulnerabilities
if (counts === undefined) {
  console.log(`audit: not done, the registry gave no report (${report.message ?? error?.message ?? 'no answer'})`)
} else {
  const severe = Object.entries(report.vulnerabilities ?? {}).filter(([, { severity }]) =>
    /high|critical/.test(severity),
  )
  for (const [name, { severity, range }] of severe) console.log(`audit: ${name} ${range}: ${severity}`)
  const found = (counts.high ?? 0) + (counts.critical ?? 0)
  console.log(`audit: ${found} high or critical`)
  if (found > 0) process.exitCode = 1
}

function read(text: string): Report {
  try {
    return (JSON.parse(text) ?? {}) as Report
  } catch {
    return {}
  }
}
