/**
 * What somebody gets who installs the package: packed, installed into an empty folder without development dependencies
 * and without scripts, started, and imported with its types.
 */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { cleanEnv, install, type Packed, pack, readJson, remove, root } from './packed.ts'

// The compiler reads the types of all dependencies here.
vi.setConfig({ testTimeout: 120_000 })

let packed: Packed
let project = ''
let service: Server
let serviceUrl = ''
const running = new Set<ChildProcess>()

beforeAll(async () => {
  packed = await pack()
  project = await install(packed)
  service = createServer((request, response) => response.end(`service ${request.url}`))
  await new Promise<void>((resolve) => service.listen(0, '127.0.0.1', resolve))
  serviceUrl = `http://127.0.0.1:${(service.address() as { port: number }).port}`
}, 240_000)

afterAll(() => {
  for (const child of running) child.kill('SIGKILL')
  service?.close()
  remove(packed)
})

/** Starts a program and waits until its output holds `text`. */
async function started(command: string, args: string[], text: string, env: Record<string, string> = {}) {
  const child = spawn(command, args, { cwd: project, env: cleanEnv(env), stdio: ['ignore', 'pipe', 'pipe'] })
  running.add(child)
  let output = ''
  let wake = () => {}
  const ended = new Promise<number | null>((resolve) => child.on('exit', (code) => resolve(code)))
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString('utf8')
      wake()
    })
  }
  const deadline = setTimeout(() => child.kill('SIGKILL'), 20_000)
  const seen = new Promise<boolean>((resolve) => {
    wake = () => output.includes(text) && resolve(true)
    void ended.then(() => resolve(false))
  })
  if (!(await seen)) throw new Error(`ended without "${text}":\n${output}`)
  clearTimeout(deadline)
  return {
    output: () => output,
    async stop(): Promise<number | null> {
      child.kill('SIGTERM')
      const code = await ended
      running.delete(child)
      return code
    },
  }
}

describe('the package', () => {
  it('holds what runs and what an editor reads, and nothing else', () => {
    const kinds = new Set(
      packed.files.map(({ path }) => path.replace(/^dist\/(?:.*\/)?[^/]*?(\.d\.ts|\.[a-z]+)$/, 'dist/**$1')),
    )
    expect([...kinds].sort()).toEqual([
      'CHANGELOG.md',
      'LICENSE',
      'README.md',
      'dist/**.css',
      'dist/**.d.ts',
      'dist/**.html',
      'dist/**.js',
      'dist/**.svg',
      'dist/yaml.LICENSE',
      'dist/zod.LICENSE',
      'gateway.schema.json',
      'gateway.yaml',
      'package.json',
    ])
    const names = packed.files.map(({ path }) => path)
    expect(names).toContain('dist/main.js')
    expect(names).toContain('dist/dashboard/index.html')
    const foreign = names.filter((name) => /test|bench|\.map$/i.test(name) && !name.startsWith('dist/loadtest-'))
    expect(foreign).toEqual([])
    expect(packed.size).toBeLessThan(600 * 1024)
  })

  it('has types for its one door alone', () => {
    const types = packed.files.map(({ path }) => path).filter((path) => path.endsWith('.d.ts'))
    expect(types).toContain('dist/index.d.ts')
    expect(types.length).toBeLessThan(20)
  })

  it('brings no development dependency, and none of its dependencies runs a script at install', () => {
    const modules = join(project, 'node_modules')
    const names = readdirSync(modules).flatMap((name) =>
      name.startsWith('@') ? readdirSync(join(modules, name)).map((inner) => `${name}/${inner}`) : [name],
    )
    const development = Object.keys(readJson(join(root, 'package.json'))['devDependencies'] as object)
    expect(names.filter((name) => development.includes(name))).toEqual([])
    const lock = readJson(join(modules, '.package-lock.json'))['packages'] as Record<
      string,
      { hasInstallScript?: boolean }
    >
    expect(Object.entries(lock).filter(([, { hasInstallScript }]) => hasInstallScript)).toEqual([])
  })

  it('installs the command, which can be executed', () => {
    const command = join(project, 'node_modules/.bin/fluxor-gateway')
    expect(statSync(command).mode & 0o111).toBe(0o111)
    const { version } = readJson(join(root, 'package.json'))
    expect(execFileSync(command, ['--version'], { env: cleanEnv(), encoding: 'utf8' }).trim()).toBe(version)
  })

  it('runs the quick form in an empty folder, with its dashboard, and ends with 0', async () => {
    const [port, adminPort] = [await freePort(), await freePort()]
    const command = join(project, 'node_modules/.bin/fluxor-gateway')
    const args = ['--upstream', serviceUrl, '--listen', `127.0.0.1:${port}`, '--admin', `127.0.0.1:${adminPort}`]
    const gateway = await started(command, args, '"admin listening"', { ADMIN_TOKEN: 'a-token-for-this-test' })
    expect(await (await fetch(`http://127.0.0.1:${port}/hello`)).text()).toBe('service /hello')
    const healthy = execFileSync(command, ['healthcheck', '--ready', '--admin', `127.0.0.1:${adminPort}`], {
      env: cleanEnv({ ADMIN_TOKEN: 'a-token-for-this-test' }),
    })
    expect(healthy.toString()).toBe('')
    expect(await (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text()).toContain('max_ccu 5000')
    expect(await gateway.stop()).toBe(0)
  })

  it('checks the config that it ships', () => {
    const shipped = join(project, 'node_modules/fluxor-gateway/gateway.yaml')
    const command = join(project, 'node_modules/.bin/fluxor-gateway')
    const out = execFileSync(command, ['check', '--strict', '-c', shipped], { env: cleanEnv(), encoding: 'utf8' })
    expect(out).toContain('ok (')
    expect(existsSync(join(project, 'node_modules/fluxor-gateway/gateway.schema.json'))).toBe(true)
  })

  it('is a library with types', async () => {
    const source = `
import { createGateway, ConfigError, type ConfigInput, type RunningGateway } from 'fluxor-gateway'

const config: ConfigInput = {
  version: 1,
  server: { listen: [{ address: '127.0.0.1:0' }], admin: false },
  admission: { maxCCU: 10, queueTimeout: '500ms' },
  upstreams: { app: { endpoints: [{ url: '${serviceUrl}' }] } },
  routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
}
// @ts-expect-error a number of what?
const wrong: ConfigInput = { version: 1, admission: { queueTimeout: 500 }, routes: [] }
const gateway: RunningGateway = createGateway(config)
await gateway.start()
const answer = await fetch(gateway.url + '/library')
console.log(await answer.text(), await gateway.close())
try {
  createGateway(wrong)
} catch (error) {
  if (error instanceof ConfigError) console.log(error.problems.length > 0)
}
`
    writeFileSync(join(project, 'use.ts'), source)
    const types = join(root, 'node_modules/@types')
    writeFileSync(
      join(project, 'tsconfig.json'),
      JSON.stringify({
        compilerOptions: {
          target: 'es2024',
          module: 'nodenext',
          strict: true,
          exactOptionalPropertyTypes: false,
          noEmit: true,
          types: ['node'],
          typeRoots: [types],
        },
        files: ['use.ts'],
      }),
    )
    const tsc = join(root, 'node_modules/typescript/bin/tsc')
    const checked = execFileSync(process.execPath, [tsc, '-p', '.', '--pretty', 'false'], {
      cwd: project,
      encoding: 'utf8',
    })
    expect(checked).toBe('')
    const use = await started(process.execPath, ['use.ts'], 'true\n')
    expect(use.output()).toContain('service /library 0\ntrue\n')
  })

  it('runs as in the container: no rights but to read itself and its config', async () => {
    // What the Dockerfile's last line does, with Node's permission model in place of the read-only root.
    const folder = join(project, 'etc')
    mkdirSync(folder, { recursive: true })
    const [port, adminPort] = [await freePort(), await freePort()]
    const config = {
      version: 1,
      server: { listen: [{ address: `127.0.0.1:${port}` }], admin: { address: `127.0.0.1:${adminPort}` } },
      upstreams: { app: { endpoints: [{ url: serviceUrl }] } },
      compression: {},
      routes: [{ match: { pathPrefix: '/' }, upstream: 'app', compression: true, cache: { ttl: '1s' } }],
    }
    writeFileSync(join(folder, 'gateway.yaml'), JSON.stringify(config))
    const gateway = await started(
      process.execPath,
      [
        '--permission',
        `--allow-fs-read=${project}`,
        '--allow-fs-read=/proc',
        '--allow-fs-read=/sys',
        join(project, 'node_modules/fluxor-gateway/dist/main.js'),
        'run',
        '-c',
        join(folder, 'gateway.yaml'),
      ],
      '"admin listening"',
    )
    expect(await (await fetch(`http://127.0.0.1:${port}/restricted`)).text()).toBe('service /restricted')
    expect(await (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text()).toContain('current_ccu 0')
    expect(await gateway.stop()).toBe(0)
    expect(gateway.output()).not.toContain('ERR_ACCESS_DENIED')
  })
})
