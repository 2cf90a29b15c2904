import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseConfig } from '../../../src/config/load.ts'
import { redact } from '../../../src/config/redact.ts'

describe('a shown config', () => {
  it('has no secret in it, and is otherwise the config', () => {
    const text = readFileSync(join(import.meta.dirname, '../../config/everything.yaml'), 'utf8')
    const { config } = parseConfig(text, 'everything.yaml', {})
    const shown = redact(config) as typeof config
    const json = JSON.stringify(shown)
    for (const secret of ['a-secret-of-at-least', 'user:pass', 'Basic abc']) expect(json).not.toContain(secret)
    expect(shown.server.admin).toMatchObject({ token: '***', metricsToken: '***', address: { port: 9901 } })
    expect(shown.identity.jwt['main']).toMatchObject({ secret: '***', issuer: ['fluxor'] })
    expect(shown.upstreams['grpc']!.sticky).toEqual({ cookie: 's', ttl: 3_600_000, secret: '***' })
    expect(shown.tracing.otlp!.headers).toEqual({ 'x-api-key': '***' })
    expect(shown.admission).toEqual(config.admission)
    expect(shown.routes[0]!.match).toEqual(config.routes[0]!.match)
    expect(JSON.stringify(config)).toContain('a-secret-of-at-least')
  })
})
