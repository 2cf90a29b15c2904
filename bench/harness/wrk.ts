/** Runs wrk on the load core and reads its figures as numbers. */

import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface LoadOptions {
  url: string
  connections: number
  seconds: number
  headers: Record<string, string>
  core: number
}

export interface LoadResult {
  requests: number
  /** Bytes of all answers, heads included. */
  bytes: number
  seconds: number
  /** Answers that were not 2xx or 3xx, and connections that failed. */
  bad: number
  p50Us: number
  p99Us: number
}

/** Runs once at the end, in wrk's Lua: costs nothing per request. */
const DONE_SCRIPT = `done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('{"requests":%d,"bytes":%d,"seconds":%f,"bad":%d,"p50Us":%f,"p99Us":%f}\\n',
    summary.requests, summary.bytes, summary.duration / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
`

export async function runWrk(options: LoadOptions): Promise<LoadResult> {
  const folder = mkdtempSync(join(tmpdir(), 'fluxor-wrk-'))
  try {
    const script = join(folder, 'done.lua')
    writeFileSync(script, DONE_SCRIPT)
    const args = [
      '-c',
      `${options.core}`,
      'wrk',
      '-t1',
      `-c${options.connections}`,
      `-d${options.seconds}s`,
      '-s',
      script,
    ]
    for (const [name, value] of Object.entries(options.headers)) args.push('-H', `${name}: ${value}`)
    const output = await new Promise<string>((resolve, reject) => {
      const timeout = (options.seconds + 15) * 1000
      execFile('taskset', [...args, options.url], { timeout }, (error, stdout, stderr) => {
        if (error) reject(new Error(`wrk failed: ${stderr || stdout || error.message}`))
        else resolve(stdout)
      })
    })
    const line = output.split('\n').find((text) => text.startsWith('{"requests"'))
    if (line === undefined) throw new Error(`wrk printed no figures:\n${output}`)
    return JSON.parse(line) as LoadResult
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
