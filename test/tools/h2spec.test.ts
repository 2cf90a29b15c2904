/** h2spec (github.com/summerwind/h2spec) against the gateway, `npm run conformance:tools`: its generic, http2 and hpack sections. */

import { execFile } from 'node:child_process'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { findOnPath } from '../support/services.ts'
import { type HttpUpstream, startHttpUpstream } from '../support/upstream.ts'

const h2spec = findOnPath('h2spec')

/**
 * What h2spec, written for RFC 7540, expects otherwise. All but the first are Node's and nghttp2's answers, which no
 * option changes.
 */
const EXCEPTIONS: Readonly<Record<string, string>> = {
  'Sends invalid connection preface': 'what is no preface is read as HTTP/1.1, answered 400 in its words and closed',
  'closed: Sends a DATA frame after sending RST_STREAM frame':
    'frames on a stream just closed are dropped (RFC 9113 §5.1)',
  'closed: Sends a HEADERS frame after sending RST_STREAM frame': 'as above',
  'closed: Sends a DATA frame': 'as above',
  'closed: Sends a HEADERS frame': 'as above',
  'Sends stream identifier that is numerically smaller than previous': 'taken for a frame of a stream just closed',
  'Sends PRIORITY frame that depend on itself': 'priorities of RFC 7540 are not read (RFC 9113 §5.3.2)',
  'Sends a PRIORITY frame with 0x0 stream identifier': 'as above',
  'Sends a PING frame with ACK': 'an answer to no PING ends the connection',
  'Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream':
    'the connection ends, not the stream alone',
}

describe('h2spec', () => {
  let gateway: TestGateway
  let upstream: HttpUpstream
  beforeAll(async () => {
    upstream = await startHttpUpstream((_request, response) => response.end('a small answer'))
    gateway = await startGateway({
      upstreams: { app: { endpoints: [{ url: upstream.url }] } },
      routes: [{ name: 'app', match: { pathPrefix: '/' }, upstream: 'app' }],
    })
  })
  afterAll(async () => {
    await gateway.close()
    await upstream.close()
  })

  it('nothing fails but what is known, and nothing is left behind', { timeout: 120_000 }, async () => {
    const args = ['generic', 'http2', 'hpack', '-h', '127.0.0.1', '-p', String(gateway.port), '-o', '2']
    const output = await new Promise<string>((resolve) => {
      // Its exit code says only that something failed.
      execFile(h2spec!, args, { maxBuffer: 1 << 24 }, (_error, stdout) => resolve(stdout))
    })
    expect(output).toMatch(/\d+ tests, \d+ passed/)
    const failed = [...output.matchAll(/× (?:\d+: )?(.+)/g)].map(([, title]) => title!.trim())
    expect(failed.filter((title) => EXCEPTIONS[title] === undefined)).toEqual([])
    await expect.poll(() => gateway.metric('current_ccu')).toBe(0)
    await expect.poll(() => gateway.metric('fluxor_connections')).toBe(0)
    expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)
  })
})
