/**
 * `npm start`: the demo service and the gateway in front of it, with the gateway.yaml of this repository, and a list of
 * things to try. It ends when the gateway does, with its exit code; SIGINT and SIGTERM are passed on to it.
 */

import { spawn } from 'node:child_process'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createDemoService } from './service.ts'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const FIRST_PORT = 3000
const PORTS_TO_TRY = 100

const service = createDemoService()
const demoPort = await listenOnFreePort(Number(process.env['DEMO_PORT'] ?? FIRST_PORT))

const args = [join(root, 'src/main.ts'), 'run', '-c', join(root, 'gateway.yaml'), ...process.argv.slice(2)]
const gateway = spawn(process.execPath, args, {
  cwd: root,
  stdio: ['ignore', 'pipe', 'inherit'],
  env: { JWT_SECRET: 'a-secret-for-the-demo-only-32-bytes!', ...process.env, DEMO_PORT: String(demoPort) },
})

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => gateway.kill(signal))
gateway.on('exit', (code, signal) => {
  service.close()
  service.closeAllConnections()
  process.exitCode = code ?? (signal === null ? 1 : 128)
})

let listening = ''
let admin = ''
let rest = ''
let shown = false
gateway.stdout.on('data', (chunk: Buffer) => {
  process.stdout.write(chunk)
  rest += chunk.toString('latin1')
  const lines = rest.split('\n')
  rest = lines.pop()!
  if (shown) return
  for (const line of lines) noteAddress(line)
  if (listening !== '' && admin !== '') {
    shown = true
    void whenReady(admin).then(() => console.log(thingsToTry(reachable(listening), reachable(admin), demoPort)))
  }
})

function noteAddress(line: string): void {
  if (!line.startsWith('{')) return
  try {
    const entry = JSON.parse(line) as { msg?: string; address?: string }
    if (entry.msg === 'listening') listening ||= entry.address ?? ''
    if (entry.msg === 'admin listening') admin = entry.address ?? ''
  } catch {
    // an ordinary line that begins with a brace
  }
}

/** An address to call: what is bound to all interfaces is reached on the loopback one. */
function reachable(address: string): string {
  return `http://${address.replace(/^(0\.0\.0\.0|\[?::\]?)(?=:\d+$)/, '127.0.0.1')}`
}

/** Waits for `/readyz`, at most 10 s: the list is worth printing even if something is still missing. */
async function whenReady(address: string): Promise<void> {
  for (let i = 0; i < 100; i++) {
    const ready = await fetch(`${reachable(address)}/readyz`).catch(() => undefined)
    await ready?.body?.cancel()
    if (ready?.ok) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

async function listenOnFreePort(wanted: number): Promise<number> {
  for (let port = wanted; port < wanted + PORTS_TO_TRY; port++) {
    // A look first: a service on another interface's wildcard address would not stop us from listening here.
    if (await answers(port)) continue
    const bound = await new Promise<boolean>((resolve) => {
      service.once('error', () => resolve(false))
      service.listen(port, '127.0.0.1', () => resolve(true))
    })
    service.removeAllListeners('error')
    if (bound) return port
  }
  throw new Error(`no free port from ${wanted} to ${wanted + PORTS_TO_TRY - 1} for the demo service`)
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

function thingsToTry(url: string, adminUrl: string, servicePort: number): string {
  const token = `$(curl -s -X POST ${url}/api/auth/token | sed 's/.*"token":"\\([^"]*\\)".*/\\1/')`
  const rows: [what: string, command: string][] = [
    ['the gateway itself', `curl -i ${url}/`],
    ['its health', `curl -i ${url}/health`],
    ['proxied to the service', `curl -i ${url}/api/orders/7`],
    ['401: no token', `curl -i ${url}/api/users`],
    ['a token', `curl -s -X POST ${url}/api/auth/token`],
    ['200 with a token', `curl -i -H "Authorization: Bearer ${token}" ${url}/api/users`],
    [
      '429: over the per-IP limit',
      `seq 1100 | xargs -P8 -I{} curl -s -o /dev/null -w '%{http_code}\\n' ${url}/api/orders/{} | sort | uniq -c`,
    ],
    [
      '503: over the CCU cap',
      `seq 150 | xargs -P150 -I{} curl -s -o /dev/null -w '%{http_code}\\n' '${url}/api/slow?ms=3000' | sort | uniq -c`,
    ],
    ['figures as JSON', `curl -s ${url}/api/metrics`],
    ['figures for Prometheus', `curl -s ${adminUrl}/metrics`],
    ['the dashboard', `${adminUrl}/dashboard`],
  ]
  const width = Math.max(...rows.map(([what]) => what.length))
  const lines = rows.map(([what, command]) => `  ${what.padEnd(width)}  ${command}`)
  return `\nThe gateway listens on ${url}, its service on http://127.0.0.1:${servicePort}. Things to try:\n\n${lines.join('\n')}\n\nCtrl-C ends it.\n`
}
