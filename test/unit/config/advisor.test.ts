/** Each rule of the advisor: what it is told by, and the nearest config that it leaves alone. */

import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { advise, RULES, type Rule } from '../../../src/config/advisor.ts'
import { parseConfig } from '../../../src/config/load.ts'
import { formatPath } from '../../../src/config/problems.ts'

type Json = Record<string, unknown>

const UPSTREAM = { endpoints: [{ url: 'http://127.0.0.1:3000' }] }
const ROUTE = { name: 'all', match: { pathPrefix: '/' }, upstream: 'app' }
const SECRET = 'a secret of at least thirty-two bytes'
const JWT = { secret: SECRET, audience: 'api' }

function base(more: Json = {}): Json {
  return { version: 1, upstreams: { app: UPSTREAM }, routes: [ROUTE], ...more }
}
const route = (more: Json): Json => base({ routes: [{ ...ROUTE, ...more }] })
const upstream = (more: Json): Json => base({ upstreams: { app: { ...UPSTREAM, ...more } } })
const jwt = (more: Json): Json =>
  base({ identity: { jwt: { main: { ...JWT, ...more } } }, routes: [{ ...ROUTE, jwt: 'main' }] })

function found(config: Json): string[] {
  return advise(parseConfig(JSON.stringify(config), 'x.yaml', {}).config).map(
    ({ rule, path }) => `${rule} ${formatPath(path)}`,
  )
}

interface Case {
  readonly rule: Rule
  readonly bad: Json
  readonly at: string
  readonly good: Json
}

const retry = (timeout: string) => ({ attempts: 2, on: ['timeout'], perTryTimeout: timeout })
const cases: Case[] = [
  {
    rule: 'A01',
    bad: upstream({ retry: retry('11s') }),
    at: 'upstreams.app.retry.perTryTimeout',
    good: upstream({ retry: retry('10s') }),
  },
  {
    rule: 'A01',
    bad: route({ retry: { attempts: 1, on: ['timeout'] } }),
    at: 'routes[0].retry.on',
    good: route({ retry: { attempts: 1, on: ['reset'] } }),
  },
  {
    rule: 'A02',
    bad: upstream({ pool: { maxOpenConns: 3349 } }),
    at: 'upstreams.app.pool.maxOpenConns',
    good: upstream({ pool: { maxOpenConns: 3350 } }),
  },
  {
    rule: 'A03',
    bad: base({ identity: { jwt: { main: { secret: SECRET } } } }),
    at: 'identity.jwt.main',
    good: jwt({}),
  },
  { rule: 'A04', bad: jwt({ secret: SECRET.slice(0, 31) }), at: 'identity.jwt.main.secret', good: jwt({}) },
  {
    rule: 'A05',
    bad: base({ server: { trustedProxies: ['10.0.0.0/8', '::/0'] } }),
    at: 'server.trustedProxies[1]',
    good: base({ server: { trustedProxies: ['10.0.0.0/8', 'fd00::/8'] } }),
  },
  {
    rule: 'A06',
    bad: base({ server: { admin: { address: '0.0.0.0:9901', token: SECRET } } }),
    at: 'server.admin.address',
    good: base({ server: { admin: { address: '127.0.0.1:9901' } } }),
  },
  {
    rule: 'A07',
    bad: base({
      routes: [
        { name: 'by host', match: { host: 'a.example', pathPrefix: '/x', headers: { v: '1' } }, upstream: 'app' },
        {
          name: 'deeper',
          match: { host: 'a.example', pathPrefix: '/x', headers: { v: '1', w: '2' } },
          upstream: 'app',
        },
        { name: 'twin', match: { host: '*.example', path: '/y', methods: ['GET'] }, upstream: 'app' },
        { name: 'all of it', match: { host: ['*.example', 'b.test'], path: '/y' }, upstream: 'app' },
        { name: 'one of it', match: { host: ['b.test'], path: '/y', methods: ['GET'] }, upstream: 'app' },
        { name: 'hidden', match: { pathTemplate: '/u/{id}' }, upstream: 'app' },
        { name: 'hider', match: { pathTemplate: '/u/{name}', methods: ['GET'] }, upstream: 'app' },
        { name: 'hider of the rest', match: { pathTemplate: '/u/{other}' }, upstream: 'app' },
      ],
    }),
    at: '',
    good: base(),
  },
  {
    rule: 'A08',
    bad: base({ identity: { jwt: { main: { jwks: { url: 'http://keys.example/jwks' }, audience: 'api' } } } }),
    at: 'identity.jwt.main.jwks.url',
    good: base({ identity: { jwt: { main: { jwks: { url: 'http://127.0.0.1:1/jwks' }, audience: 'api' } } } }),
  },
  {
    rule: 'A09',
    bad: base({
      identity: { jwt: { main: JWT } },
      routes: [ROUTE, { match: { path: '/token' }, token: { jwt: 'main', allow: ['0.0.0.0/0'] } }],
    }),
    at: 'routes[1].token.allow[0]',
    good: base({
      identity: { jwt: { main: JWT } },
      routes: [ROUTE, { match: { path: '/token' }, token: { jwt: 'main', allow: ['127.0.0.0/8'] } }],
    }),
  },
  {
    rule: 'A10',
    bad: upstream({ endpoints: [{ url: 'https://app.example' }], tls: { verify: false } }),
    at: 'upstreams.app.tls.verify',
    good: upstream({ endpoints: [{ url: 'https://app.example' }], tls: {} }),
  },
  { rule: 'A11', bad: route({ timeout: 0 }), at: 'routes[0].timeout', good: route({ timeout: '5s' }) },
  {
    rule: 'A11',
    bad: upstream({ timeouts: { firstByte: 0 } }),
    at: 'upstreams.app.timeouts.firstByte',
    good: upstream({ timeouts: { firstByte: '5s' } }),
  },
  {
    rule: 'A11',
    bad: base({ server: { timeouts: { header: 0 } } }),
    at: 'server.timeouts.header',
    good: base({ server: { timeouts: { tunnelLifetime: 0 } } }),
  },
  {
    rule: 'A12',
    bad: route({ timeout: '31s' }),
    at: 'server.shutdown.drain',
    good: route({ timeout: '30s' }),
  },
  {
    rule: 'A13',
    bad: jwt({ from: ['header', 'query:token'] }),
    at: 'identity.jwt.main.from[1]',
    good: jwt({ from: ['header', 'cookie:token'] }),
  },
  {
    rule: 'A14',
    bad: upstream({ endpoints: [{ url: 'http://a.example' }, { url: 'http://b.example' }] }),
    at: 'upstreams.app',
    good: upstream({ endpoints: [{ url: 'http://a.example' }, { url: 'http://b.example' }], outlier: {} }),
  },
  {
    rule: 'A15',
    bad: base({ admission: { queueTimeout: '30s' } }),
    at: 'admission.queueTimeout',
    good: base({ admission: { queueTimeout: '29s' } }),
  },
  {
    rule: 'A16',
    bad: base({ server: { allowFaults: true } }),
    at: 'server.allowFaults',
    good: base({ server: { allowFaults: false } }),
  },
  {
    rule: 'A17',
    bad: base({ server: { probes: { address: '0.0.0.0:9902' } } }),
    at: 'server.shutdown.readinessDelay',
    good: base({ server: { probes: { address: '0.0.0.0:9902' }, shutdown: { readinessDelay: '5s' } } }),
  },
  {
    rule: 'A18',
    bad: base({
      identity: { jwt: { main: JWT } },
      routes: [{ ...ROUTE, jwt: 'main', cache: { ttl: '1m', scope: 'shared' } }],
    }),
    at: 'routes[0].cache.scope',
    good: base({
      identity: { jwt: { main: JWT } },
      routes: [{ ...ROUTE, jwt: 'main', cache: { ttl: '1m' } }],
    }),
  },
]

describe('advisor', () => {
  for (const { rule, bad, at, good } of cases) {
    if (rule === 'A07') continue
    it(`${rule} ${RULES[rule]}: at ${at}`, () => {
      expect(found(bad)).toEqual([`${rule} ${at}`])
      expect(found(good)).toEqual([])
    })
  }

  it('A07 finds a route whose requests others take, and no other', () => {
    const { bad } = cases.find(({ rule }) => rule === 'A07')!
    const { config } = parseConfig(JSON.stringify(bad), 'x.yaml', {})
    const names = advise(config).map(({ path }) => config.routes[Number(path[1])]!.name)
    // An exact host among several makes a route more specific, methods do not.
    expect(names).toEqual(['twin', 'hider of the rest'])
    const shadowed = base({
      routes: [
        { name: 'exact', match: { path: '/a' }, upstream: 'app' },
        { name: 'template', match: { pathTemplate: '/u/{id}' }, upstream: 'app' },
        { name: 'same template', match: { pathTemplate: '/u/{name}', headers: {} }, upstream: 'app' },
        { name: 'prefix', match: { pathPrefix: '/a' }, upstream: 'app' },
      ],
    })
    const loaded = parseConfig(JSON.stringify(shadowed), 'x.yaml', {}).config
    expect(advise(loaded).map(({ path }) => loaded.routes[Number(path[1])]!.name)).toEqual(['same template'])
  })

  it('has a case for every rule', () => {
    expect([...new Set(cases.map(({ rule }) => rule))].sort()).toEqual(Object.keys(RULES).sort())
  })

  it('has a section for every rule in docs/advisor.md', () => {
    const page = readFileSync(new URL('../../../docs/advisor.md', import.meta.url), 'utf8')
    for (const [rule, subject] of Object.entries(RULES)) expect(page).toContain(`## ${rule}: ${subject}\n`)
    expect(page.match(/^## A\d\d/gm)?.length).toBe(Object.keys(RULES).length)
  })
})

describe('check --strict', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fluxor-advisor-'))
  const file = join(folder, 'gateway.yaml')
  const main = new URL('../../../src/main.ts', import.meta.url).pathname
  const run = (text: string, ...args: string[]) => {
    writeFileSync(file, text)
    return spawnSync(process.execPath, [main, 'check', '-c', file, ...args], { encoding: 'utf8', timeout: 20_000 })
  }
  const TEXT = `version: 1
identity:
  jwt:
    main: { secret: tooshort-canary, audience: api }
upstreams:
  app: { endpoints: [{ url: "http://127.0.0.1:3000" }], timeouts: { idle: 0 } }
routes:
  - { match: { pathPrefix: / }, upstream: app, jwt: main }
`
  afterAll(() => rmSync(folder, { recursive: true }))

  it('points at line and column, shows no secret, and exits with 78', () => {
    const { status, stderr } = run(TEXT, '--strict')
    expect(status).toBe(78)
    expect(stderr).toContain(`${file}:4:21  warning: A04 identity.jwt.main.secret: is shorter than 32 bytes`)
    expect(stderr).toContain(`${file}:6:75  warning: A11 upstreams.app.timeouts.idle: is off`)
    expect(stderr).toContain(`${file}: not accepted with --strict (1 route, 1 upstream, 2 findings)`)
    expect(stderr).not.toContain('canary')
  })

  it('says nothing of it without --strict', () => {
    const { status, stdout, stderr } = run(TEXT)
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: `${file}: ok (1 route, 1 upstream)\n`, stderr: '' })
  })

  it('accepts what the file allows by number', () => {
    const { status, stdout } = run(`# check: allow A04, A11 (a test)\n${TEXT}`, '--strict')
    expect({ status, stdout }).toEqual({ status: 0, stdout: `${file}: ok (1 route, 1 upstream, 2 allowed)\n` })
  })
})
