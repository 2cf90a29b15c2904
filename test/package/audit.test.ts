/** The audit of CI fails on a finding and on nothing else: a registry that is silent is no reason to stop. */

import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { expect, it } from 'vitest'

const report = (high: number, critical: number, vulnerabilities: object) =>
  JSON.stringify({ auditReportVersion: 2, vulnerabilities, metadata: { vulnerabilities: { low: 3, high, critical } } })

it.each<[title: string, printed: string, exit: number, code: number, says: RegExp]>([
  ['finds nothing severe', report(0, 0, {}), 0, 0, /0 high or critical/],
  [
    'finds a package',
    report(1, 0, { bad: { severity: 'high', range: '<2' }, poor: { severity: 'low', range: '*' } }),
    1,
    1,
    /bad <2: high\naudit: 1 high or critical/,
  ],
  ['finds a worse one', report(0, 1, { bad: { severity: 'critical', range: '*' } }), 1, 1, /bad \*: critical/],
  ['has no service to ask', '{"message":"405 Method Not Allowed","statusCode":405}', 1, 0, /not done.*405/],
  ['gets no answer', '', 1, 0, /not done/],
  ['gets a page', '<html>', 1, 0, /not done/],
  ['gets null', 'null', 1, 0, /not done/],
])('the audit that %s', (_title, printed, exit, code, says) => {
  const folder = mkdtempSync(join(tmpdir(), 'fluxor-audit-'))
  try {
    writeFileSync(join(folder, 'printed'), printed)
    writeFileSync(join(folder, 'npm'), `#!/bin/sh\ncat "${join(folder, 'printed')}"\nexit ${exit}\n`)
    chmodSync(join(folder, 'npm'), 0o755)
    const env = { ...process.env, PATH: `${folder}${delimiter}${process.env['PATH']}` }
    const { status, stdout } = spawnSync(process.execPath, ['scripts/audit.ts'], { env, encoding: 'utf8' })
    expect([status, stdout]).toEqual([code, expect.stringMatching(says)])
  } finally {
    rmSync(folder, { recursive: true })
  }
})
