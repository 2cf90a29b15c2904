/**
 * The README, followed word by word: its two commands in a copy of the repository, what it says to type, and what it says
 * comes back. Ports are those that were free; times and ids are not compared.
 */

import { execFileSync, spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { cleanEnv, root } from './packed.ts'

vi.setConfig({ testTimeout: 60_000 })

const readme = readFileSync(join(root, 'README.md'), 'utf8')
const blocks = (language: string) =>
  [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'gm'))].map(([, text]) => text!)

const folder = mkdtempSync(join(tmpdir(), 'fluxor-readme-'))
let stop = async () => {}
let printed = ''
let port = 0
let adminPort = 0

beforeAll(async () => {
  for (const path of ['src', 'examples', 'package.json', 'gateway.yaml', 'gateway.schema.json']) {
    cpSync(join(root, path), join(folder, path), { recursive: true })
  }
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  ;[port, adminPort] = [await freePort(), await freePort()]
  const config = readFileSync(join(folder, 'gateway.yaml'), 'utf8')
  expect(config).toContain('127.0.0.1:9901')
  writeFileSync(join(folder, 'gateway.yaml'), config.replace('127.0.0.1:9901', `127.0.0.1:${adminPort}`))
  const env = cleanEnv({ LISTEN: `127.0.0.1:${port}`, DEMO_PORT: String(await freePort()) })
  const child = spawn('npm', ['start'], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  const ended = new Promise<void>((resolve) => child.on('exit', () => resolve()))
  stop = async () => {
    try {
      process.kill(-child.pid!, 'SIGTERM')
    } catch {
      // gone already
    }
    await ended
  }
  await new Promise<void>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      printed += chunk.toString('utf8')
      if (printed.includes('Ctrl-C ends it.')) resolve()
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    void ended.then(() => reject(new Error(printed)))
  })
}, 60_000)

afterAll(async () => {
  await stop()
  rmSync(folder, { recursive: true, force: true })
})

/** What differs between two runs. */
function normalise(text: string): string {
  return text
    .replaceAll('\r', '')
    .replace(/^Date: .*$/gm, 'Date: …')
    .replace(/^X-Request-ID: \S+$/gm, 'X-Request-ID: …')
    .replace(/"requestId":"[^"]+"/g, '"requestId":"…"')
    .replace(/;r=\d+;t=\d+/g, ';r=…;t=…')
    .replace(/^content-length: \d+$/gim, 'Content-Length: …')
    .trim()
}

describe('README.md', () => {
  it('begins with the two commands', () => {
    expect(blocks('sh')[0]).toBe('npm ci\nnpm start\n')
  })

  it('npm start says what to try', () => {
    expect(printed).toContain(`The gateway listens on http://127.0.0.1:${port}`)
    expect(printed).toContain(`http://127.0.0.1:${adminPort}/dashboard`)
  })

  it('the dashboard is where it says', async () => {
    expect(readme).toContain('http://127.0.0.1:9901/dashboard')
    const page = await fetch(`http://127.0.0.1:${adminPort}/dashboard`)
    expect([page.status, await page.text()]).toEqual([200, expect.stringContaining('<title>')])
  })

  it('what it says to type answers what it says', () => {
    const [session] = blocks('console')
    const steps = session!.split(/^\$ /m).slice(1)
    expect(steps.length).toBeGreaterThanOrEqual(4)
    let variables = ''
    for (const step of steps) {
      const end = step.indexOf('\n')
      const command = step.slice(0, end).replaceAll(':8080', `:${port}`)
      if (/^[A-Z]+=/.test(command)) {
        variables += `${command}\n`
        continue
      }
      const out = execFileSync('bash', ['-ec', variables + command], {
        encoding: 'utf8',
        timeout: 20_000,
        stdio: ['ignore', 'pipe', 'ignore'],
      })
      expect(normalise(out), command).toBe(normalise(step.slice(end + 1)))
    }
  })

  it('the config for your own service is accepted, and so are the commands that take it', () => {
    const [yaml] = blocks('yaml')
    writeFileSync(join(folder, 'own.yaml'), yaml!)
    const args = [join(folder, 'src/main.ts'), 'check', '-c', join(folder, 'own.yaml'), '--strict']
    expect(execFileSync(process.execPath, args, { encoding: 'utf8' })).toContain('ok (1 route, 1 upstream)')
    const commands = blocks('sh')
      .join('')
      .match(/npx fluxor-gateway .*/g)!
    expect(commands.map((line) => line.replace(/\s*#.*/, ''))).toEqual([
      'npx fluxor-gateway check -c gateway.yaml --strict',
      'npx fluxor-gateway -c gateway.yaml',
      'npx fluxor-gateway --upstream http://127.0.0.1:3000',
    ])
  })
})
