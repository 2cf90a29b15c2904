/**
 * A gateway in front of a raw upstream, and the two statements that conformance cases make most: "this is refused and
 * nothing of it reaches the upstream" and "this arrives there as that".
 */

import { expect } from 'vitest'
import { type ConfigObject, startGateway, type TestGateway } from './gateway.ts'
import { type Piece, problem, type RawClientOptions, type RawResponse, type RawResult, send } from './raw-client.ts'
import { type RawUpstream, startRawUpstream, type UpstreamRequest } from './upstream.ts'

export interface Pair {
  gateway: TestGateway
  upstream: RawUpstream
  close(): Promise<void>
}

const PROBE = 'GET /probe HTTP/1.1\r\nHost: probe.test\r\n\r\n'

export interface PairOptions extends ConfigObject {
  /** Keys for the upstream `app` beside its endpoints. */
  app?: ConfigObject
  /** Further upstreams. */
  upstreams?: ConfigObject
}

/**
 * Everything goes to the raw upstream, which is called `app`; routes given in `options` come before that.
 * The other options are keys of the config file.
 */
export async function startPair(options: PairOptions = {}): Promise<Pair> {
  const upstream = await startRawUpstream()
  const { app, upstreams, routes, ...rest } = options
  const gateway = await startGateway({
    ...rest,
    upstreams: { app: { endpoints: [{ url: upstream.url }], ...app }, ...upstreams },
    routes: [...((routes as unknown[] | undefined) ?? []), { match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  return {
    gateway,
    upstream,
    async close() {
      await gateway.close()
      await upstream.close()
    },
  }
}

/** An ordinary request on a connection of its own still works, and what it needed is all that the upstream has seen. */
export async function expectUntouchedUpstream(pair: Pair): Promise<void> {
  const before = pair.upstream.received().toString('latin1')
  expect(before, 'bytes at the upstream').toBe('')
  await expectAlive(pair)
  expect(pair.upstream.requests.map((request) => request.target)).toEqual(['/probe'])
}

/** The gateway still answers, and the upstream has been asked for `/probe` last. */
export async function expectAlive(pair: Pair): Promise<void> {
  const probe = await send(pair.gateway.port, PROBE, { responses: 1 })
  expect(probe.status, `the gateway must go on working\n${pair.gateway.output()}`).toBe(200)
  expect(pair.upstream.requests.at(-1)?.target).toBe('/probe')
}

/**
 * The pieces get exactly one answer, a problem document with one of these statuses, and the connection is closed; nothing
 * at all reaches the upstream, and the gateway lives.
 */
export async function expectRefused(pair: Pair, pieces: Piece | Piece[], ...statuses: number[]): Promise<RawResponse> {
  pair.upstream.clear()
  const result = await send(pair.gateway.port, pieces)
  const answer = onlyAnswer(result, statuses)
  expect(result.ended, 'the connection closes').not.toBe('')
  await expectUntouchedUpstream(pair)
  return answer
}

/** As `expectRefused`, for a fault in the body: the upstream may have seen a beginning, but never a whole request. */
export async function expectRefusedBody(pair: Pair, pieces: Piece | Piece[], ...statuses: number[]): Promise<void> {
  pair.upstream.clear()
  const result = await send(pair.gateway.port, pieces)
  onlyAnswer(result, statuses)
  expect(result.ended, 'the connection closes').not.toBe('')
  await expectAlive(pair)
  expect(pair.upstream.requests.map((request) => request.target)).toEqual(['/probe'])
}

function onlyAnswer(result: RawResult, statuses: number[]): RawResponse {
  expect(result.responses, `answers: ${result.bytes.toString('latin1')}`).toHaveLength(1)
  const answer = result.responses[0]!
  expect(statuses).toContain(answer.status)
  if (answer.body.length > 0) expect(problem(answer)['status']).toBe(answer.status)
  return answer
}

/** The pieces get `200`, and the upstream got exactly one request from them, which is returned. */
export async function expectForwarded(
  pair: Pair,
  pieces: Piece | Piece[],
  options: RawClientOptions = {},
): Promise<UpstreamRequest> {
  pair.upstream.clear()
  const result = await send(pair.gateway.port, pieces, { responses: 1, ...options })
  expect(result.status, result.bytes.toString('latin1')).toBe(200)
  expect(pair.upstream.requests).toHaveLength(1)
  return pair.upstream.requests[0]!
}
