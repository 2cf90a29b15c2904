/** Runs wrk on the load core and reads its figures as numbers. */

import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** What is sent; default a GET. */
export interface RequestShape {
  method: string
  body: Buffer
}

export interface LoadOptions {
  url: string
  connections: number
  seconds: number
  headers: Record<string, string>
  core: number
  request?: RequestShape
  /** Ends the load before its time. */
  signal?: AbortSignal
}

export interface LoadResult {
  requests: number
  /** Bytes of all answers, heads included. */
  bytes: number
  seconds: number
  /** Answers that were not 2xx or 3xx, and connections that failed; by kind in `errors`. */
  bad: number
  errors: { connect: number; read: number; write: number; status: number }
  /** Answers that took longer than wrk's two seconds; they came, and are counted. */
  timeouts: number
  p50Us: number
  p99Us: number
}

/** Runs once at the end, in wrk's Lua: costs nothing per request. */
const DONE_SCRIPT = `done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('{"requests":%d,"bytes":%d,"seconds":%f,"timeouts":%d,"p50Us":%f,"p99Us":%f,',
    summary.requests, summary.bytes, summary.duration / 1e6, e.timeout, latency:percentile(50), latency:percentile(99)))
  io.write(string.format('"errors":{"connect":%d,"read":%d,"write":%d,"status":%d}}\\n',
    e.connect, e.read, e.write, e.status))
end
`

/** The request is put together once: a body costs wrk no more per request than the kernel's copy. */
function requestScript(folder: string, request: RequestShape): string {
  const file = join(folder, 'body')
  writeFileSync(file, request.body)
  return `wrk.method = '${request.method}'\nwrk.body = io.open('${file}', 'rb'):read('*a')\n`
}

export async function runWrk(options: LoadOptions): Promise<LoadResult> {
  const folder = mkdtempSync(join(tmpdir(), 'fluxor-wrk-'))
  try {
    const script = join(folder, 'done.lua')
    writeFileSync(script, (options.request ? requestScript(folder, options.request) : '') + DONE_SCRIPT)
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
      const wrk = execFile('taskset', [...args, options.url], { timeout }, (error, stdout, stderr) => {
        if (error) reject(new Error(`wrk failed: ${stderr || stdout || error.message}`))
        else resolve(stdout)
      })
      // At SIGINT wrk ends the load and prints its figures.
      options.signal?.addEventListener('abort', () => wrk.kill('SIGINT'), { once: true })
    })
    const line = output.split('\n').find((text) => text.startsWith('{"requests"'))
    if (line === undefined) throw new Error(`wrk printed no figures:\n${output}`)
    const result = JSON.parse(line) as Omit<LoadResult, 'bad'>
    return { ...result, bad: Object.values(result.errors).reduce((sum, count) => sum + count, 0) }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
