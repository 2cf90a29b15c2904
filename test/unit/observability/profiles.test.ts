import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { cpuProfile, toPprof } from '../../../src/observability/profiles.ts'
import { findOnPath } from '../../support/services.ts'

const go = findOnPath('go')

/** 3 ms in `hot`, 1 ms in `cold`, both called by `main`, and 6 ms of nothing. */
const frame = (functionName: string, lineNumber: number) => ({ functionName, scriptId: '1', url: 'file:///app.js', lineNumber, columnNumber: 0 }) // biome-ignore format: short
const PROFILE = JSON.stringify({
  nodes: [
    { id: 1, callFrame: frame('(root)', -1), children: [2, 5] },
    { id: 2, callFrame: frame('main', 9), children: [3, 4] },
    { id: 3, callFrame: frame('hot', 19), positionTicks: [{ line: 21, ticks: 1 }, { line: 22, ticks: 2 }] },
    { id: 4, callFrame: frame('cold', 29) },
    { id: 5, callFrame: frame('(idle)', -1) },
  ],
  startTime: 1_000_000,
  endTime: 1_010_000,
  samples: [3, 3, 3, 4, 5],
  timeDeltas: [0, 1000, 1000, 1000, 1000, 6000],
}) // biome-ignore format: a table

describe('a CPU profile', () => {
  it('names the function that was busy', async () => {
    function spinsForAWhile(): void {
      const until = performance.now() + 20
      while (performance.now() < until) Math.sqrt(2)
    }
    const timer = setInterval(spinsForAWhile, 25)
    const profiling = cpuProfile(0.3).finally(() => clearInterval(timer))
    const profile = JSON.parse(await profiling) as { nodes: { callFrame: { functionName: string } }[] }
    expect(profile.nodes.map(({ callFrame }) => callFrame.functionName)).toContain('spinsForAWhile')
  })

  it('is gzipped in the format of pprof, without what was no work', async () => {
    const bytes = gunzipSync(await toPprof(PROFILE, 1_700_000_000_000)).toString('latin1')
    for (const text of ['hot', 'cold', 'main', 'file:///app.js', 'nanoseconds']) expect(bytes).toContain(text)
  })

  it.skipIf(go === undefined)('is read by go tool pprof: times, lines and callers', { timeout: 60_000 }, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fluxor-pprof-'))
    try {
      const file = join(folder, 'cpu.pb.gz')
      writeFileSync(file, await toPprof(PROFILE, 1_700_000_000_000))
      const { stdout } = await promisify(execFile)(go!, ['tool', 'pprof', '-lines', '-top', file], {
        env: { ...process.env, PPROF_TMPDIR: folder },
      })
      expect(stdout).toContain('Type: cpu')
      expect(stdout).toMatch(/3ms +75\.\d*% +75\.\d*% +3ms +75\.\d*% +hot .*app\.js:22/)
      expect(stdout).toMatch(/1ms +25\.\d*% +100% +1ms +25\.\d*% +cold/)
      expect(stdout).toMatch(/0 +0% +100% +4ms +100% +main/)
      expect(stdout).not.toContain('(idle)')
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
})
