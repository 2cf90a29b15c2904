import { describe, expect, it } from 'vitest'
import { LOCAL_REPLIES, LocalReply, type LocalReplyCode } from '../../src/local-reply.ts'

const codes = Object.keys(LOCAL_REPLIES) as LocalReplyCode[]

describe('a refusal', () => {
  it.each(codes)('%s is a problem document (RFC 9457)', (code) => {
    const reply = new LocalReply(code)
    const body = reply.body('id-1')
    expect(body.endsWith('}\n')).toBe(true)
    expect(JSON.parse(body)).toEqual({
      type: expect.stringMatching(
        /^(?:urn:fluxor:error:[a-z0-9-]+|https:\/\/iana\.org\/assignments\/http-problem-types#[a-z-]+)$/,
      ),
      title: LOCAL_REPLIES[code].title,
      status: reply.status,
      code,
      requestId: 'id-1',
    })
    expect(reply.status).toBeGreaterThanOrEqual(400)
  })

  it('says what is known beyond its code', () => {
    const reply = new LocalReply('RATE_LIMITED', {
      reason: 'PER_IP',
      detail: 'at most 10 a minute',
      status: 430,
      type: 'urn:x',
      fields: 'Retry-After: 1\r\n',
      close: true,
      extra: { policy: ['perIp'], 'violated-policies': null },
    })
    expect(JSON.parse(reply.body('a'))).toEqual({
      type: 'urn:x',
      title: 'Too many requests',
      status: 430,
      code: 'RATE_LIMITED',
      reason: 'PER_IP',
      detail: 'at most 10 a minute',
      policy: ['perIp'],
      'violated-policies': null,
      requestId: 'a',
    })
    expect([reply.fields, reply.close]).toEqual(['Retry-After: 1\r\n', true])
  })

  it('made once serves every request', () => {
    const reply = new LocalReply('NO_ROUTE')
    expect([reply.body('a'), reply.body('b')].map((body) => JSON.parse(body).requestId)).toEqual(['a', 'b'])
  })

  it('is ASCII whatever it says, so that its length in characters is its length in bytes', () => {
    const detail = 'Überlast: “voll”, \u{1f600} \u2028 \x00 "quoted" \\'
    const body = new LocalReply('INTERNAL', { detail }).body('a"b\\')
    expect(body).toMatch(/^[\x20-\x7e]+\n$/)
    expect(JSON.parse(body)).toMatchObject({ detail, requestId: 'a"b\\' })
  })

  it('closes the connection where the framing cannot be trusted, and only there', () => {
    const closing = codes.filter((code) => new LocalReply(code).close)
    expect(closing.sort()).toEqual([
      'BAD_REQUEST',
      'EXPECTATION',
      'HEAD_TOO_LARGE',
      'REQUEST_TIMEOUT',
      'UNSUPPORTED',
      'URI_TOO_LONG',
    ])
  })
})
