/** The judge of the benches: wrong answers must end a run, verdicts must say what was measured. */

import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterEach, describe, expect, it } from 'vitest'
import { check, checkLoad, judge, type Sample, type SubjectResult } from '../../../bench/harness/compare.ts'
import type { LoadResult } from '../../../bench/harness/wrk.ts'

let server: Server | undefined
afterEach(() => {
  server?.close()
  server?.closeAllConnections()
})

async function serve(listener: RequestListener): Promise<string> {
  server = createServer(listener)
  await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

describe('an answer of what is measured', () => {
  it('is right when status and body are', async () => {
    const url = await serve((_request, response) => response.end('hello'))
    expect(await check('a proxy', url, { body: 'hello' })).toBeGreaterThan(5)
  })

  it.each<[string, RequestListener, RegExp]>([
    ['another status', (_request, response) => response.writeHead(503).end('hello'), /a proxy answered 503/],
    ['another body', (_request, response) => response.end('hallo'), /5 bytes that are not the body/],
    ['a body that was cut', (_request, response) => response.end('hell'), /4 bytes that are not the body/],
    ['a body that breaks off', (_request, response) => response.writeHead(200, { 'content-length': 9 }).write('hello', () => response.destroy()), /aborted|hang up/],
    ['a coding that nobody asked for', (_request, response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync('hello')), /in the coding gzip/],
  ])('ends the run with %s', async (_what, listener, message) => {
    await expect(check('a proxy', await serve(listener), { body: 'hello' })).rejects.toThrow(message)
  }) // biome-ignore format: a table

  it('must be compressed where that is measured', async () => {
    const plain = await serve((_request, response) => response.end('hello'))
    await expect(check('a proxy', plain, { body: 'hello', encoding: 'gzip' })).rejects.toThrow(/coding identity/)
    server!.close()
    const url = await serve((_request, response) =>
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync('hello')),
    )
    expect(await check('a proxy', url, { body: 'hello', encoding: 'gzip' })).toBeGreaterThan(5)
  })

  it('is to the body that was sent', async () => {
    const url = await serve((request, response) => request.pipe(response))
    const body = Buffer.from('echo')
    expect(await check('a proxy', url, { request: { method: 'POST', body }, body })).toBeGreaterThan(4)
  })
})

describe('a load', () => {
  const errors = { connect: 0, read: 0, write: 0, status: 0 }
  const load = (over: Partial<LoadResult>): LoadResult => ({
    requests: 1000,
    bytes: 300_000,
    seconds: 1,
    bad: 0,
    errors,
    timeouts: 0,
    p50Us: 1,
    p99Us: 1,
    ...over,
  })

  it('ends the run when an answer was bad, and says of which kind', () => {
    expect(() => checkLoad('a proxy', load({}), 300, 64)).not.toThrow()
    const bad = load({ bad: 2, errors: { ...errors, status: 2 } })
    expect(() => checkLoad('a proxy', bad, 300, 64)).toThrow(/"status":2/)
  })

  it('ends the run when nothing came, or answers were shorter than before', () => {
    expect(() => checkLoad('a proxy', load({ requests: 0, bytes: 0 }), 300, 64)).toThrow(/bad answers of 0/)
    expect(() => checkLoad('a proxy', load({ bytes: 100_000 }), 300, 64)).toThrow(/answers of 100 bytes/)
  })

  it('may end in the middle of large answers, one a connection', () => {
    const large = load({ requests: 10, bytes: 13_000_000 })
    expect(() => checkLoad('a proxy', large, 1_000_000, 4)).not.toThrow()
    expect(() => checkLoad('a proxy', load({ requests: 10, bytes: 20_000_000 }), 1_000_000, 4)).toThrow(/answers of/)
  })
})

describe('a verdict', () => {
  const result = (name: string, costsUs: number[]): SubjectResult => ({
    name,
    version: '',
    ratios: [],
    samples: costsUs.map((us) => ({ userUs: us, systemUs: 0 }) as Sample),
  })
  const goal = { subject: 'ours', versus: 'theirs', atMost: 1.25 }

  it('is by the median of the ratios within each round, with their spread', () => {
    const results = [result('ours', [12, 24, 40]), result('theirs', [10, 20, 20])]
    expect(judge(goal, results)).toEqual({
      text: 'ours costs at most 1.25x of theirs',
      found: '1.20x (1.20–2.00)',
      met: true,
    })
    expect(judge({ ...goal, atMost: 1.1 }, results, 'a case')).toMatchObject({ met: false, text: /^a case: / })
  })

  it('is none without the peer, and against us when we did not start', () => {
    expect(judge(goal, [result('ours', [1])]).met).toBeUndefined()
    expect(judge(goal, [result('theirs', [1])]).met).toBe(false)
  })
})
