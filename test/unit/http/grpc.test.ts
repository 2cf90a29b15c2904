import { describe, expect, it } from 'vitest'
import { grpcFields, grpcTimeoutMs, isGrpc } from '../../../src/http/grpc.ts'
import { headFromText } from '../../../src/http1/message-head.ts'
import { LocalReply } from '../../../src/local-reply.ts'

const head = (line: string) => headFromText('request', `POST / HTTP/1.1\r\nHost: x\r\n${line}\r\n\r\n`)

describe('what is gRPC', () => {
  it.each([
    ['application/grpc', true],
    ['Application/gRPC+proto', true],
    ['application/grpc;charset=x', true],
    ['application/grpc-web', false],
    ['application/grpcx', false],
    ['application/json', false],
  ])('%s: %s', (type, expected) => {
    expect(isGrpc(head(`Content-Type: ${type}`))).toBe(expected)
  })
})

describe('the deadline of a call', () => {
  it.each([
    ['1H', 3_600_000],
    ['2M', 120_000],
    ['3S', 3000],
    ['250m', 250],
    ['500u', 0.5],
    ['100n', 0.0001],
    ['123456789S', undefined],
    ['1s', undefined],
    ['-1S', undefined],
    ['', undefined],
  ])('%s', (value, expected) => {
    const found = grpcTimeoutMs(head(`grpc-timeout: ${value}`))
    if (expected === undefined) expect(found).toBeUndefined()
    else expect(found).toBeCloseTo(expected, 9)
  })
})

describe('a refusal', () => {
  it.each([
    ['JWT_EXPIRED', 16],
    ['IP_DENIED', 7],
    ['NO_ROUTE', 12],
    ['RATE_LIMITED', 8],
    ['BACKPRESSURE', 14],
    ['UP_CONNECT', 14],
    ['UP_TIMEOUT', 4],
    ['INTERNAL', 13],
    ['BAD_REQUEST', 13],
  ] as const)('%s is grpc-status %d', (code, status) => {
    expect(grpcFields(new LocalReply(code), 'title')).toBe(`grpc-status: ${status}\r\ngrpc-message: title\r\n`)
  })

  it('a message cannot end its line', () => {
    const reply = new LocalReply('INTERNAL', { detail: '100%\r\nx: ü' })
    expect(grpcFields(reply, '')).toContain('grpc-message: 100%25%0D%0Ax: %C3%BC\r\n')
  })
})
