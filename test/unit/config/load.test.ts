// biome-ignore-all lint/suspicious/noTemplateCurlyInString: references of the config file look like that
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { loadConfig, parseConfig, quickConfig } from '../../../src/config/load.ts'
import { ConfigError, formatProblem } from '../../../src/config/problems.ts'

function problemsOf(text: string, env: Record<string, string> = {}): ConfigError {
  try {
    parseConfig(text, 'gateway.yaml', env)
  } catch (error) {
    if (error instanceof ConfigError) return error
    throw error
  }
  throw new Error('the config was accepted')
}

const messages = (text: string) => problemsOf(text).problems.map(({ path, message }) => `${path}: ${message}`)

describe('a config file', () => {
  it('that is missing is an error', () => {
    expect(() => loadConfig('/nowhere/gateway.yaml')).toThrow('/nowhere/gateway.yaml  there is no such file')
  })

  it('that is a folder is an error', () => {
    expect(() => loadConfig(tmpdir())).toThrow('cannot be read (EISDIR)')
  })

  it('tells every file that it was made of', () => {
    const folder = mkdtempSync(join(tmpdir(), 'fluxor-load-'))
    try {
      writeFileSync(join(folder, 'body.txt'), 'hello\n')
      writeFileSync(join(folder, 'gateway.yaml'), 'version: 1\nroutes: [{ respond: { body: ${file:body.txt} } }]\n')
      const { config, files } = loadConfig(join(folder, 'gateway.yaml'))
      expect(config.routes[0]!.respond!.body).toBe('hello')
      expect(files).toEqual([join(folder, 'gateway.yaml'), join(folder, 'body.txt')])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('gives plain data that can be posted to a thread', () => {
    const { config } = parseConfig('version: 1\nroutes: [{ home: {} }]\n')
    expect(structuredClone(config)).toEqual(config)
    expect(JSON.parse(JSON.stringify(config))).toEqual(config)
  })

  it('may begin with a byte order mark and have CRLF line ends', () => {
    expect(parseConfig('\ufeffversion: 1\r\nroutes: [{ home: {} }]\r\n').config.version).toBe(1)
    expect(problemsOf('version: 1\r\nrouts: []\r\nroutes: [{ home: {} }]\r\n').message).toContain(
      '2:1  routs: unknown key',
    )
  })

  it.each([
    ['a list', '- a', /expected a mapping/],
    ['a tab', 'version: 1\n\troutes: []', /2:1 {2}a tab in the indentation/],
    ['a tag of YAML 1.1', 'version: 1\nroutes: !!binary YQ==', /2:9 {2}a tag \("!…"\) that is not known/],
    ['two documents', 'version: 1\nroutes: [{ home: {} }]\n---\n{}', /a second document/],
    ['an unknown alias', 'version: *a', /Unresolved alias/],
    [
      'aliases that explode',
      `a: &a [${'1,'.repeat(20)}]\nb: &b [${'*a,'.repeat(20)}]\nc: [${'*b,'.repeat(20)}]`,
      /Excessive alias/,
    ],
    ['a mapping in itself', 'version: 1\nroutes: &r [*r]', /expected a mapping/],
    ['a key of all objects', '__proto__: {}\nversion: 1\nroutes: [{ home: {} }]', /__proto__: not possible as a key/],
    ['a merge key', 'version: 1\nroutes: [{ <<: { home: {} } }]', /merge keys are not part of YAML 1.2/],
    ['deep nesting', `version: 1\nroutes: ${'['.repeat(5000)}`, /not valid YAML|expected/],
  ])('with %s is refused without a crash', (_, text, expected) => {
    expect(problemsOf(text).message).toMatch(expected)
  })

  it('whatever it holds, is either accepted or refused with reasons', () => {
    const word = fc.constantFrom(
      'version',
      '1',
      'routes',
      'match',
      'home',
      ': ',
      '{',
      '}',
      '[',
      ']',
      '- ',
      '\n',
      '  ',
      '&a ',
      '*a',
      '"',
      '${A}',
      '#',
    )
    fc.assert(
      fc.property(fc.array(word, { maxLength: 40 }), (words) => {
        try {
          parseConfig(words.join(''), 'gateway.yaml', {})
        } catch (error) {
          expect(error).toBeInstanceOf(ConfigError)
          expect((error as ConfigError).problems.length).toBeGreaterThan(0)
        }
      }),
      { numRuns: 500 },
    )
  })

  it('names the line, shows it, and puts a caret under the key', () => {
    expect(formatProblem(problemsOf('version: 1\nroutes:\n  - match: { path: / }\n    hme: {}\n').problems[0]!)).toBe(
      ['gateway.yaml:4:5  routes[0].hme: unknown key. Did you mean "home"?', '  4 |     hme: {}', '    |     ^'].join(
        '\n',
      ),
    )
  })

  it('shows the part of a long line that matters', () => {
    const text = formatProblem(
      problemsOf(`version: 1\nroutes: [{ ${'home: {} }, { '.repeat(100)}hme: {} }]`).problems[0]!,
    )
    const [, source, caret] = text.split('\n')
    expect(source!.length).toBeLessThan(180)
    expect(source!.slice(caret!.indexOf('^')).startsWith('hme')).toBe(true)
  })

  it('never shows a secret, neither in the line nor in the message', () => {
    const jwt = (secret: string) =>
      `version: 1\nidentity: { jwt: { main: { secret: ${secret}, isuer: x } } }\nroutes: [{ home: {} }]\n`
    for (const secret of ['hunter2hunter2', '1234567890', '[hunter2]']) {
      const { message } = problemsOf(jwt(secret))
      expect(message).toContain('isuer')
      expect(message).not.toContain(secret.replace(/[[\]]/g, ''))
    }
  })

  it.each([
    ['stands there twice', '{ secret: hunter2, secret: hunter2 }'],
    ['stands after a variable that is not set', '{ isuer: ${NOPE}, secret: hunter2 }'],
    ['is followed by broken YAML', '{ secret: hunter2, } }'],
    ['has no closing quote', '{ secret: "hunter2 }'],
  ])('never shows a secret that %s', (_, policy) => {
    const { message } = problemsOf(`version: 1\nidentity: { jwt: { main: ${policy} } }\nroutes: [{ home: {} }]\n`)
    expect(message).toContain('gateway.yaml:')
    expect(message).not.toContain('hunter2')
  })

  it('shows no secret either where its tag is not known', () => {
    const error = problemsOf(
      'version: 1\nidentity: { jwt: { main: { secret: !!binary aHVudGVyMmh1bnRlcjI= } } }\nroutes: [{ home: {} }]',
    )
    expect(error.message).toContain('2:')
    expect(error.message).not.toContain('aHVudGVy')
  })

  it('with one mistake still has its other mistakes told', () => {
    expect(
      messages('version: 1\nadmission: { maxCUC: 5 }\nroutes:\n  - upstream: app\n  - { home: {}, jwt: main }\n'),
    ).toEqual([
      'admission.maxCUC: unknown key. Did you mean "maxCCU"?',
      'routes[0].upstream: unknown upstream "app". There are none under "upstreams".',
      'routes[1].jwt: unknown JWT policy "main". There are none under "identity.jwt".',
    ])
  })

  it('with a broken upstream does not call its name unknown', () => {
    expect(messages('version: 1\nupstreams: { app: { endpoints: 5 } }\nroutes: [{ upstream: app }]\n')).toEqual([
      'upstreams.app.endpoints: expected a list, not 5: put it in [ ]',
    ])
  })
})

describe('the admin listener', () => {
  const text = (admin: string) => `version: 1\nserver: { admin: ${admin} }\nroutes: [{ home: {} }]\n`

  it.each([
    '{ address: 0.0.0.0:9901 }',
    '{ address: ":9901" }',
    '{ address: 10.0.0.1:9901 }',
    '{ address: "[::]:9901" }',
  ])('at %s needs a token', (admin) => {
    expect(problemsOf(text(admin)).message).toContain('needs a "token"')
  })

  it.each(['{}', 'false', '{ address: 127.0.0.2:1 }', '{ address: "[::1]:1" }', '{ address: 0.0.0.0:9901, token: t }'])(
    'may be %s',
    (admin) => {
      expect(parseConfig(text(admin)).warnings).toEqual([])
    },
  )
})

describe('names of routes', () => {
  const names = (routes: string) => parseConfig(`version: 1\nroutes: ${routes}\n`).config.routes.map(({ name }) => name)

  it('come from the match', () => {
    expect(
      names(`
  - { match: { path: /api/orders, methods: [GET, HEAD] }, home: {} }
  - { match: { host: API.example.com, pathPrefix: /v1/ }, home: {} }
  - { match: { pathTemplate: "/users/{id}" }, home: {} }
  - { match: { pathRegex: "/v[0-9]" }, home: {} }
  - { home: {} }`),
    ).toEqual(['GET,HEAD /api/orders', 'api.example.com/v1/*', '/users/{id}', '/~/v[0-9]', '/*'])
  })

  it('are unique and do not change when another route is added', () => {
    const two = '{ match: { path: /a }, home: {} }, { match: { path: /a, headers: { x: "1" } }, home: {} }'
    expect(names(`[${two}]`)).toEqual(['/a', '/a #2'])
    expect(names(`[{ name: "/b", home: {} }, ${two}]`)).toEqual(['/b', '/a', '/a #2'])
    expect(names(`[${two}, { name: "/a", match: { path: /c }, home: {} }]`)).toEqual(['/a #2', '/a #3', '/a'])
  })
})

describe('the quick form', () => {
  it('sends everything to one upstream', () => {
    const { config } = quickConfig({ upstream: 'http://127.0.0.1:3000', listen: ':8080', maxCcu: 10 })
    expect(config.server.listen[0]!.address).toEqual({ host: '0.0.0.0', port: 8080 })
    expect(config.admission.maxCCU).toBe(10)
    expect(config.upstreams['app']!.endpoints![0]!.url).toBe('http://127.0.0.1:3000')
    expect(config.routes[0]).toMatchObject({ match: { pathPrefix: '/' }, upstream: 'app' })
  })

  it('takes host and port for the upstream', () => {
    expect(quickConfig({ upstream: 'localhost:3000' }).config.upstreams['app']!.endpoints![0]!.url).toBe(
      'http://localhost:3000',
    )
  })

  it('names the option that is wrong', () => {
    expect(() => quickConfig({ upstream: 'http://', listen: 'x', admin: ':1', maxCcu: 0 }, {})).toThrow(
      /--listen: expected an address[\s\S]*--max-ccu: expected at least 1[\s\S]*--upstream: expected a URL/,
    )
  })

  it('takes the token of an admin listener that others can reach from the environment', () => {
    const options = { upstream: 'http://127.0.0.1:3000', admin: '0.0.0.0:9901' }
    expect(() => quickConfig(options, {})).toThrow('--admin: an address that other machines can reach needs a token in')
    expect(quickConfig(options, { ADMIN_TOKEN: 't' }).config.server.admin).toMatchObject({ token: 't' })
  })
})
