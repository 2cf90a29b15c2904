/** Every bound in time and size that a client meets: slow heads, slow bodies, idle connections, bodies too large. */

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  expectAlive,
  expectForwarded,
  expectRefused,
  expectRefusedBody,
  type Pair,
  startPair,
} from '../support/pair.ts'
import { problem, RawClient, send } from '../support/raw-client.ts'

const BODY_LIMIT = 65_536

let pair: Pair
beforeAll(async () => {
  pair = await startPair({
    server: {
      limits: { bodyBytes: '64KiB' },
      timeouts: { header: '1s', body: '1s', idle: '1s', request: '3s' },
    },
  })
})
afterAll(() => pair?.close())

async function drip(
  text: string,
  everyMs: number,
): Promise<{ ms: number; status: number; ended: string; code: unknown }> {
  const client = new RawClient(pair.gateway.port)
  const startedMs = performance.now()
  const sending = (async () => {
    for (const byte of text) {
      if (client.ended !== '') return
      await client.send(byte, everyMs)
    }
  })()
  const result = await client.end(8000)
  const ms = performance.now() - startedMs
  client.close()
  await sending
  const answer = result.responses[0]
  return { ms, status: result.status, ended: result.ended, code: answer && problem(answer)['code'] }
}

describe.concurrent('slow clients', () => {
  it('a head that drips is cut when its time is over, not prolonged by each byte', async () => {
    const { ms, status, ended } = await drip(
      `GET / HTTP/1.1\r\nHost: a.test\r\n${'X: aaaaaaaaaaaaaaaa\r\n'.repeat(10)}`,
      50,
    )
    expect(ended).not.toBe('')
    expect([0, 408]).toContain(status)
    expect(ms).toBeGreaterThan(900)
    expect(ms).toBeLessThan(2500)
  })

  it('a connection on which nothing is ever sent is closed', async () => {
    const client = new RawClient(pair.gateway.port)
    const startedMs = performance.now()
    const result = await client.end(8000)
    client.close()
    expect(result.ended).not.toBe('')
    expect(performance.now() - startedMs).toBeLessThan(3000)
  })

  it('an idle kept connection is closed after its time, without a word', async () => {
    const client = new RawClient(pair.gateway.port)
    await client.send('GET /p HTTP/1.1\r\nHost: a.test\r\n\r\n')
    await client.answers(1)
    const startedMs = performance.now()
    const result = await client.end(8000)
    client.close()
    expect([result.ended, result.rest.length, result.responses.length]).toEqual(['fin', 0, 1])
    expect(performance.now() - startedMs).toBeGreaterThan(700)
    expect(performance.now() - startedMs).toBeLessThan(3000)
  })

  it.each([
    ['by length', 'Content-Length: 1000\r\n\r\nhalf'],
    ['in chunks', 'Transfer-Encoding: chunked\r\n\r\nff\r\nhalf'],
    ['before its first byte', 'Content-Length: 1000\r\n\r\n'],
  ])('a body that stops is 408, %s', async (_title, rest) => {
    const startedMs = performance.now()
    const result = await send(pair.gateway.port, `POST /stopped HTTP/1.1\r\nHost: a.test\r\n${rest}`, {
      timeoutMs: 8000,
    })
    expect(result.ended).not.toBe('')
    expect([0, 408]).toContain(result.status)
    expect(performance.now() - startedMs).toBeLessThan(3000)
    expect(pair.upstream.requests.filter((request) => request.target === '/stopped')).toEqual([])
  })

  it('a body that drips is cut when the time of the whole request is over', async () => {
    const { ms, status, ended } = await drip(
      `POST /dripped HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10000\r\n\r\n${'x'.repeat(10_000)}`.slice(0, 2000),
      5,
    )
    expect(ended).not.toBe('')
    expect([0, 408]).toContain(status)
    expect(ms).toBeLessThan(6500)
    expect(pair.upstream.requests.filter((request) => request.target === '/dripped')).toEqual([])
  })
})

describe('bodies too large', () => {
  const post = (fields: string, body: string) => `POST /p HTTP/1.1\r\nHost: a.test\r\n${fields}\r\n\r\n${body}`
  const chunksOf = (bytes: number, size: number) => {
    let text = ''
    for (let left = bytes; left > 0; left -= size) {
      const n = Math.min(left, size)
      text += `${n.toString(16)}\r\n${'x'.repeat(n)}\r\n`
    }
    return `${text}0\r\n\r\n`
  }

  it('exactly the limit passes, by length and in chunks', async () => {
    expect(
      (await expectForwarded(pair, post(`Content-Length: ${BODY_LIMIT}`, 'x'.repeat(BODY_LIMIT)))).body,
    ).toHaveLength(BODY_LIMIT)
    expect(
      (await expectForwarded(pair, post('Transfer-Encoding: chunked', chunksOf(BODY_LIMIT, 1000)))).body,
    ).toHaveLength(BODY_LIMIT)
  })

  it('one byte more by length is 413 before anything is sent upstream', async () => {
    await expectRefused(pair, post(`Content-Length: ${BODY_LIMIT + 1}`, ''), 413)
  })

  it('a length far beyond is 413 at once, also when the body comes', async () => {
    await expectRefused(pair, post('Content-Length: 9000000000', 'x'.repeat(100_000)), 413)
  })

  it('one byte more in chunks is 413', async () => {
    await expectRefusedBody(pair, post('Transfer-Encoding: chunked', chunksOf(BODY_LIMIT + 1, 1000)), 413)
  })

  it('one chunk larger than the limit is 413 before its end', async () => {
    await expectRefusedBody(pair, post('Transfer-Encoding: chunked', `ffffff\r\n${'x'.repeat(BODY_LIMIT + 1)}`), 413)
  })

  it('the client is not told to go on with a body that will be refused', async () => {
    pair.upstream.clear()
    const result = await send(pair.gateway.port, post('Content-Length: 9000000\r\nExpect: 100-continue', ''), {
      responses: 1,
    })
    expect(result.informational).toEqual([])
    expect(result.status).toBe(413)
    expect(pair.upstream.received().length).toBe(0)
  })

  it('the refusal arrives although the client goes on sending', async () => {
    const client = new RawClient(pair.gateway.port)
    await client.send(post('Content-Length: 150000', ''))
    await client.send('x'.repeat(50_000), 10, 'x'.repeat(50_000), 10, 'x'.repeat(50_000))
    const result = await client.answers(1)
    client.close()
    expect(result.status).toBe(413)
    expect(result.responses[0]?.body.length).toBeGreaterThan(0)
    await expectAlive(pair)
  })
})
