import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { Exchange } from '../../../../src/exchange.ts'
import { headFromText } from '../../../../src/http1/message-head.ts'
import { ipRouteConfig } from '../../../../src/policies/ip/config.ts'
import { compileIp } from '../../../../src/policies/ip/policy.ts'

const schema = z.strictObject(ipRouteConfig)

function from(address: string): Exchange {
  const x = new Exchange(headFromText('request', 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'), {} as never, 0)
  x.clientAddress = address
  return x
}

describe('address rules', () => {
  it('cost nothing when there are none', () => {
    expect(compileIp(schema.parse({}))).toBeUndefined()
  })

  it('let only allowed addresses pass, others get 403 IP_DENIED', () => {
    const gate = compileIp(schema.parse({ ipAllow: ['10.0.0.0/8', '::1'] }))!
    expect(gate(from('10.1.2.3'))).toBeUndefined()
    expect(gate(from('::ffff:10.1.2.3'))).toBeUndefined()
    expect(gate(from('::1'))).toBeUndefined()
    expect(gate(from('11.0.0.1'))).toMatchObject({ code: 'IP_DENIED', status: 403 })
    expect(gate(from('2001:db8::1'))).toMatchObject({ code: 'IP_DENIED' })
  })

  it('refuse denied addresses, also allowed ones', () => {
    const gate = compileIp(schema.parse({ ipAllow: ['10.0.0.0/8'], ipDeny: ['10.6.6.0/24'] }))!
    expect(gate(from('10.6.7.1'))).toBeUndefined()
    expect(gate(from('10.6.6.1'))).toMatchObject({ code: 'IP_DENIED' })
  })

  it('let everybody else pass when some are denied', () => {
    const gate = compileIp(schema.parse({ ipDeny: ['10.6.6.6'] }))!
    expect(gate(from('10.6.6.6'))).toMatchObject({ code: 'IP_DENIED' })
    expect(gate(from('10.6.6.7'))).toBeUndefined()
  })

  it('never let what is no address pass an allow list', () => {
    const gate = compileIp(schema.parse({ ipAllow: ['0.0.0.0/0', '::/0'] }))!
    expect(gate(from('1.2.3.4'))).toBeUndefined()
    expect(gate(from(''))).toMatchObject({ code: 'IP_DENIED' })
    expect(gate(from('localhost'))).toMatchObject({ code: 'IP_DENIED' })
  })

  it('are refused at load when an address is malformed', () => {
    const result = schema.safeParse({ ipDeny: ['10.0.0.0/8', '10.0.0.0/99'] })
    expect(result.error?.issues[0]).toMatchObject({ path: ['ipDeny', 1] })
  })
})
