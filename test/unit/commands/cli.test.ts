import { spawn } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'

const root = join(import.meta.dirname, '../../..')
const MAIN = join(root, 'src/main.ts')
let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fluxor-cli-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

interface Result {
  code: number
  out: string
  err: string
}

function cli(
  args: string[],
  options: { stdin?: string; node?: string[]; env?: Record<string, string> } = {},
): Promise<Result> {
  const child = spawn(process.execPath, [...(options.node ?? []), MAIN, ...args], {
    cwd: root,
    stdio: [options.stdin === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    env: { ...process.env, ADMIN_TOKEN: undefined, ...options.env },
  })
  child.stdin?.end(options.stdin)
  let out = ''
  let err = ''
  child.stdout!.on('data', (chunk) => (out += chunk))
  child.stderr!.on('data', (chunk) => (err += chunk))
  return new Promise((resolve) => child.on('close', (code) => resolve({ code: code ?? -1, out, err })))
}

function config(text: string): string {
  const file = join(folder, 'gateway.yaml')
  writeFileSync(file, text)
  return file
}

const GOOD = 'version: 1\nroutes: [{ home: {} }]\n'

describe('the command line', () => {
  it.each([
    [['chek'], 'unknown command "chek". Did you mean "check"?'],
    [['check', '--stric'], 'unknown option --stric. Did you mean --strict?'],
    [['-c', 'a', '--wacth'], 'unknown option --wacth. Did you mean --watch?'],
    [['-C', 'a'], 'unknown option -C.'],
    [['run', '-c'], '-c needs a value: -c FILE'],
    [['run', 'a'], '"a" is one argument too many for run'],
    [['run', '--watch=yes', '-c', 'a'], '--watch takes no value'],
    [['-c', 'a', '--upstream', 'b'], '--upstream is for the form without a file'],
    [['--listen', ':1'], 'what to run?'],
    [['--upstream', 'http://a', '--max-ccu', 'many'], '--max-ccu expects a whole number'],
    [['key'], '"key" is not complete: key hash'],
    [['purge'], 'what to purge?'],
    [['token'], 'either -c FILE or --secret SECRET'],
    [['healthcheck', '--timeout', '5'], '--timeout expects a time'],
  ])('answers %j with 64 and a hint', async (args, expected) => {
    const { code, out, err } = await cli(args)
    expect(err).toContain(expected)
    expect(err).toContain('--help')
    expect({ code, out }).toEqual({ code: 64, out: '' })
  })

  it('prints its help, and with nothing to do the same as an error', async () => {
    const help = await cli(['--help'])
    expect(help).toMatchObject({ code: 0, err: '' })
    expect(help.out).toContain('fluxor-gateway -c gateway.yaml')
    expect(await cli([])).toEqual({ code: 64, out: '', err: help.out })
    expect((await cli(['check', '--help'])).out).toContain('--strict')
  })

  it('prints the version of the package', async () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
    expect(await cli(['--version'])).toEqual({ code: 0, out: `${version}\n`, err: '' })
  })

  it('says in one line which Node it needs when an older one starts it', async () => {
    const older = 'Object.defineProperty(process,"versions",{value:{...process.versions,node:"20.19.0"}})'
    const { code, out, err } = await cli(['--help'], { node: ['--import', `data:text/javascript,${older}`] })
    expect(err.trim()).toMatch(/^fluxor-gateway needs Node\.js 24\.17 or newer; this is v\S+\.$/)
    expect({ code, out }).toEqual({ code: 1, out: '' })
    expect(readFileSync(MAIN, 'utf8')).not.toMatch(/^import /m)
  })

  it('ends with 78 when the config is bad, and tells what is wrong', async () => {
    const file = config('version: 1\nroutes: [{ hme: {} }]\n')
    const { code, err } = await cli(['check', '-c', file])
    expect(code).toBe(78)
    expect(err).toContain(`${file}:2:12  routes[0].hme: unknown key. Did you mean "home"?`)
    expect((await cli(['check', '-c', join(folder, 'none.yaml')])).code).toBe(78)
  })
})

describe('check', () => {
  it('accepts a good config', async () => {
    const file = config(GOOD)
    expect(await cli(['check', '-c', file])).toEqual({ code: 0, out: `${file}: ok (1 route, 0 upstreams)\n`, err: '' })
  })

  it('lets warnings pass unless it is strict', async () => {
    const file = config(`${GOOD}upstreams: { app: { endpoints: [{ url: "http://a" }] } }\n`)
    const lenient = await cli(['check', '-c', file])
    expect(lenient.code).toBe(0)
    expect(lenient.err).toContain('warning: upstreams.app: no route uses this upstream')
    expect((await cli(['check', '-c', file, '--strict'])).code).toBe(78)
  })
})

describe('schema', () => {
  it('prints what gateway.schema.json holds, and checks it', async () => {
    const { out } = await cli(['schema'])
    expect(out).toBe(readFileSync(join(root, 'gateway.schema.json'), 'utf8'))
    expect((await cli(['schema', '--check', 'gateway.schema.json'])).code).toBe(0)
    const stale = join(folder, 'stale.json')
    writeFileSync(stale, '{}')
    expect(await cli(['schema', '--check', stale])).toMatchObject({
      code: 1,
      err: expect.stringContaining('npm run schema'),
    })
  })
})

describe('token', () => {
  const SECRET = 'a-secret-of-at-least-32-bytes-in-all'
  const read = (token: string) => {
    const [head, claims, signature] = token.trim().split('.')
    expect(createHmac('sha256', SECRET).update(`${head}.${claims}`).digest('base64url')).toBe(signature)
    return JSON.parse(Buffer.from(claims!, 'base64url').toString()) as Record<string, number>
  }

  it('signs with a secret', async () => {
    const { out } = await cli([
      'token',
      '--secret',
      SECRET,
      '--sub',
      'me',
      '--claim',
      'n=1',
      '--claim',
      'plan=pro',
      '--expires-in',
      '5m',
    ])
    const claims = read(out)
    expect(claims).toMatchObject({ sub: 'me', n: 1, plan: 'pro' })
    expect(claims['exp']! - claims['iat']!).toBe(300)
  })

  it('signs as the policy of a config wants it', async () => {
    const file = config(`${GOOD}identity: { jwt: { main: { secret: ${SECRET}, issuer: fluxor, audience: api } } }\n`)
    expect(read((await cli(['token', '-c', file])).out)).toMatchObject({ iss: 'fluxor', aud: 'api', sub: 'test' })
    expect(await cli(['token', '-c', file, '--jwt', 'other'])).toMatchObject({
      code: 1,
      err: expect.stringContaining('it has main'),
    })
  })
})

describe('key hash', () => {
  const HASH = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'

  it('takes the key as an argument or from standard input', async () => {
    expect((await cli(['key', 'hash', 'abc'])).out).toBe(`${HASH}\n`)
    expect((await cli(['key', 'hash'], { stdin: 'abc\n' })).out).toBe(`${HASH}\n`)
  })

  it('makes a key when there is none', async () => {
    const { out } = await cli(['key', 'hash'])
    const [, key, hash] = /^key: {4}(flx_\S{32})\nsha256: ([0-9a-f]{64})\n$/.exec(out)!
    expect((await cli(['key', 'hash', key!])).out).toBe(`${hash}\n`)
  })
})

describe('commands that ask a running gateway', () => {
  let server: Server | undefined
  afterEach(() => {
    server?.closeAllConnections()
    server?.close()
  })

  async function admin(answer: (request: IncomingMessage, body: string) => [number, string]): Promise<string> {
    server = createServer((request, response) => {
      let body = ''
      request.on('data', (chunk) => (body += chunk))
      request.on('end', () => {
        const [status, text] = answer(request, body)
        response.writeHead(status).end(text)
      })
    })
    await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve))
    return `127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  it('healthcheck ends with 0 when it lives and 1 when it is not ready', async () => {
    const address = await admin(({ url }) => (url === '/livez' ? [200, 'ok'] : [503, 'draining']))
    expect((await cli(['healthcheck', '--admin', address])).code).toBe(0)
    expect(await cli(['healthcheck', '--ready', '--admin', address])).toEqual({
      code: 1,
      out: '',
      err: 'fluxor-gateway: /readyz answered 503: draining\n',
    })
  })

  it('healthcheck finds the address in a config', async () => {
    const address = await admin(() => [200, 'ok'])
    const file = config(`${GOOD}server: { admin: { address: "0.0.0.0:${address.split(':')[1]}", token: t } }\n`)
    expect((await cli(['healthcheck', '-c', file])).code).toBe(0)
  })

  it('healthcheck ends with 1 when nobody answers', async () => {
    expect(await cli(['healthcheck', '--admin', '127.0.0.1:1'])).toMatchObject({
      code: 1,
      err: expect.stringContaining('ECONNREFUSED'),
    })
  })

  it('purge sends what to take out, with the token', async () => {
    let seen: unknown
    const address = await admin(({ method, url, headers }, body) => {
      seen = { method, url, token: headers.authorization, body: JSON.parse(body) }
      return [200, '{"removed":2}']
    })
    const args = ['purge', 'http://a/x', '--prefix', 'http://a/y', '--tag', 't', '--soft', '--admin', address]
    expect(await cli(args, { env: { ADMIN_TOKEN: 'secret' } })).toEqual({ code: 0, out: '{"removed":2}\n', err: '' })
    expect(seen).toEqual({
      method: 'POST',
      url: '/purge',
      token: 'Bearer secret',
      body: { urls: ['http://a/x'], prefixes: ['http://a/y'], tags: ['t'], soft: true },
    })
  })

  it('purge says that it needs a token', async () => {
    const address = await admin(() => [401, ''])
    expect(await cli(['purge', '/x', '--admin', address])).toMatchObject({
      code: 1,
      err: expect.stringContaining('--token'),
    })
  })
})
