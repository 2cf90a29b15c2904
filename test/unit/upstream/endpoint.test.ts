import { describe, expect, it } from 'vitest'
import { Endpoint, endpointKey, parseEndpointUrl } from '../../../src/upstream/endpoint.ts'
import { endpoint } from './support.ts'

describe('endpoint URL', () => {
  it.each([
    ['http://app:3000', 'app', 3000, false, 'app:3000'],
    ['http://app', 'app', 80, false, 'app'],
    ['https://app.example', 'app.example', 443, true, 'app.example'],
    ['https://app.example:80/', 'app.example', 80, true, 'app.example:80'],
    ['http://[::1]:8080', '::1', 8080, false, '[::1]:8080'],
  ])('%s', (text, host, port, secure, authority) => {
    const address = parseEndpointUrl(text)!
    expect(address).toEqual({ host, port, secure })
    expect(new Endpoint(address).authority).toBe(authority)
  })

  it.each(['app:3000', 'ftp://app', 'http://u:p@app', 'http://app/api', 'http://app?x=1', ''])(
    'refuses "%s"',
    (text) => {
      expect(parseEndpointUrl(text)).toBeUndefined()
    },
  )

  it('has the same key however it is written', () => {
    expect(endpointKey(parseEndpointUrl('http://APP:80/')!)).toBe(endpointKey(parseEndpointUrl('http://app')!))
    expect(endpointKey({ host: '::1', port: 1, secure: true })).toBe('https://[::1]:1')
  })

  it('names the service, not the address, in Host and SNI when DNS found it', () => {
    const found = new Endpoint({ host: '10.0.0.7', port: 443, secure: true, serverName: 'app.example' })
    expect([found.authority, found.serverName, found.key]).toEqual([
      'app.example',
      'app.example',
      'https://10.0.0.7:443',
    ])
  })
})

describe('endpoint state', () => {
  it('shows the weightiest reason and since when', () => {
    const e = endpoint()
    e.eject(100, 1000, '5 failures in a row')
    expect([e.state, e.reason, e.sinceMs]).toEqual(['ejected', '5 failures in a row', 100])
    e.markUnhealthy(200, 'GET / answered 500')
    expect([e.state, e.sinceMs]).toEqual(['unhealthy', 200])
    e.drain(300, 'by an operator')
    expect(e.state).toBe('draining')
    e.undrain(400)
    expect(e.state).toBe('unhealthy')
    e.markHealthy(500)
    expect(e.state).toBe('ejected')
    expect(e.isAvailable(999)).toBe(false)
    expect(e.isAvailable(1000)).toBe(true)
    expect([e.state, e.slowStartFromMs]).toEqual(['healthy', 1000])
  })

  it('stays out while unhealthy although its ejection is over', () => {
    const e = endpoint()
    e.markUnhealthy(0, 'x')
    e.eject(0, 10, 'y')
    expect(e.isAvailable(20)).toBe(false)
    e.markHealthy(30)
    expect(e.isAvailable(30)).toBe(true)
  })

  it('with weight 0 is up for those who stick to it, but takes nobody new', () => {
    const e = endpoint('a', { weight: 0 })
    expect([e.isAvailable(0), e.isUp(0)]).toEqual([false, true])
  })
})
