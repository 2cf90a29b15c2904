/**
 * What is measured: the gateway and its peers, each started with a config of its own in a temporary folder, on one core,
 * on loopback, and stopped by its pid. A peer that is not installed is left out by `available`.
 */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePort } from '../../test/support/free-port.ts'
import { type ConfigObject, startGateway } from '../../test/support/gateway.ts'
import { findOnPath } from '../../test/support/services.ts'

/** The answer that is proxied: 129 bytes of JSON, as a small API gives. */
export const SMALL_JSON =
  '{"id":7,"item":"item-7","quantity":3,"status":"shipped","customer":{"id":42,"name":"Ada Lovelace"},"total":"129.00","paid":true}\n'

export const PROXY_CORE = 0
export const LOAD_CORE = 1
const START_TIMEOUT_MS = 20_000

export interface Running {
  pid: number
  port: number
  close(): Promise<void>
}

export interface Subject {
  name: string
  /** False when its program or package is not on this machine. */
  available(): boolean
  start(upstreamPort: number): Promise<Running>
  /** What is asked for; default `/`. */
  path?: string
  /** Of the load, where it is not the comparison's. */
  connections?: number
  /** The subject that its ratios are to, where it is not the comparison's baseline. */
  versus?: string
  /** Its version for the report. */
  version?(): string
  /** Throws unless it does what it is measured for: a proxy that checks no token is no cheap checker of tokens. */
  prove?(url: string, headers: Record<string, string>): Promise<void>
}

const peers = fileURLToPath(new URL('../peers', import.meta.url))

export function firstLine(program: string, ...args: string[]): string {
  try {
    return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: 5000 }).split(
      '\n',
    )[0]!
  } catch {
    return '?'
  }
}

interface Launch {
  command: string[]
  port: number
  folder: string
  env?: Record<string, string>
  core?: number
}

async function launch({ command, port, folder, env, core = PROXY_CORE }: Launch): Promise<Running> {
  const child = spawn('taskset', ['-c', `${core}`, ...command], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...env },
  })
  let errors = ''
  child.stderr!.on('data', (chunk: Buffer) => {
    errors = (errors + chunk.toString('latin1')).slice(-4000)
  })
  const running = {
    pid: child.pid!,
    port,
    async close() {
      await end(child)
      rmSync(folder, { recursive: true, force: true })
    },
  }
  const deadline = performance.now() + START_TIMEOUT_MS
  while (!(await accepts(port))) {
    if (child.exitCode !== null || performance.now() > deadline) {
      await running.close()
      throw new Error(`${command[0]} did not start:\n${errors}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return running
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGTERM')
  const hard = setTimeout(() => child.kill('SIGKILL'), 3000)
  await ended
  clearTimeout(hard)
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fluxor-bench-'))
  chmodSync(folder, 0o755) // nginx's workers run as another user
  return folder
}

interface NginxOptions {
  /** Text for the `http` block; `$PORT` is its port, `$FOLDER` a folder of its own. */
  http: string
  /** Most connections, to both sides. */
  connections?: number
  /** Shared objects to load. */
  modules?: string[]
  /** Files for its folder. */
  files?: Record<string, string | Buffer>
}

export async function startNginx(
  { http, connections = 8192, modules = [], files = {} }: NginxOptions,
  core: number,
): Promise<Running> {
  const folder = temporaryFolder()
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), content)
  }
  const port = await freePort()
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (kind) => `${kind}_temp_path ${folder}/${kind};`,
  )
  mkdirSync(join(folder, 'cache'))
  chmodSync(join(folder, 'cache'), 0o777)
  const text = http.replaceAll('$PORT', `${port}`).replaceAll('$FOLDER', folder)
  writeFileSync(
    join(folder, 'nginx.conf'),
    `${modules.map((module) => `load_module ${module};\n`).join('')}worker_processes 1; daemon off; pid ${folder}/nginx.pid; error_log stderr crit;
events { worker_connections ${connections}; }
http { access_log off; default_type application/json; keepalive_requests 1000000000; keepalive_timeout 75s;
${paths.join('\n')}
${text}
}
`,
  )
  const command = [findOnPath('nginx')!, '-p', folder, '-c', join(folder, 'nginx.conf'), '-e', 'stderr']
  return launch({ command, port, folder, core })
}

const RETURN_SMALL_JSON = `return 200 '${SMALL_JSON}';`

/** The service behind every proxy: an nginx that answers from its config, on the load core. */
export function startUpstream(fields = ''): Promise<Running> {
  const http = `server { listen 127.0.0.1:$PORT backlog=4096; location = /_status { stub_status; }
  location / { ${fields} ${RETURN_SMALL_JSON} } }`
  return startNginx({ http }, LOAD_CORE)
}

/** How many requests the service behind has had. */
export async function requestsOfUpstream(port: number): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${port}/_status`)).text()
  const count = Number(/^\s*\d+ \d+ (\d+)\s*$/m.exec(text)?.[1])
  if (!(count > 0)) throw new Error(`the upstream's nginx has no stub_status: ${text.slice(0, 200)}`)
  return count
}

/** A service that answers files of these contents, each under its name. */
export function startFiles(files: Record<string, Buffer>, type = 'application/octet-stream'): Promise<Running> {
  const http = `sendfile on; tcp_nopush on; open_file_cache max=16;
  server { listen 127.0.0.1:$PORT backlog=4096; default_type ${type}; root $FOLDER/files; location / { etag off; } }`
  const named = Object.fromEntries(Object.entries(files).map(([name, content]) => [`files/${name}`, content]))
  return startNginx({ http, files: named }, LOAD_CORE)
}

export const NGINX_PROXY = `proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Real-IP $remote_addr;`

export const nginxUpstream = (port: number, keepAlive = 128) =>
  `upstream app { server 127.0.0.1:${port}; keepalive ${keepAlive}; keepalive_requests 1000000000; keepalive_timeout 60s; }`

export function nginx(name: string, http: (upstreamPort: number) => string): Subject {
  return {
    name,
    available: () => findOnPath('nginx') !== undefined,
    start: (upstreamPort) => startNginx({ http: http(upstreamPort) }, PROXY_CORE),
    version: nginxVersion,
  }
}

function nginxVersion(): string {
  // nginx prints its version to stderr
  return firstLine('sh', '-c', `'${findOnPath('nginx')}' -v 2>&1`)
}

export const nginxProxy = nginx(
  'nginx proxy_pass',
  (port) => `${nginxUpstream(port)} server { listen 127.0.0.1:$PORT backlog=4096; location / { ${NGINX_PROXY} } }`,
)

export const nginxReturn = nginx(
  'nginx return 200',
  () => `server { listen 127.0.0.1:$PORT backlog=4096; location / { ${RETURN_SMALL_JSON} } }`,
)

const LIMIT_ZONES = `limit_req_zone $binary_remote_addr zone=ip:10m rate=1000000r/s;
  limit_req_zone $http_authorization zone=key:10m rate=1000000r/s; limit_conn_zone $server_name zone=all:1m;`
const LIMITS = 'limit_req zone=ip burst=100000 nodelay; limit_req zone=key burst=100000 nodelay; limit_conn all 5000;'

const NJS_MODULE = ['/usr/lib/nginx/modules', '/usr/lib64/nginx/modules', '/etc/nginx/modules']
  .map((folder) => join(folder, 'ngx_http_js_module.so'))
  .find((file) => existsSync(file))

/** Verifies an HS256 token and its exp, iss and aud, as the gateway's `jwt` does. */
const njsScript = (secret: string) => `import crypto from 'crypto';
const secret = ${JSON.stringify(secret)};
function ok(r) {
  const parts = (r.headersIn.Authorization || '').slice(7).split('.');
  if (parts.length !== 3) return '0';
  const mac = crypto.createHmac('sha256', secret).update(parts[0] + '.' + parts[1]).digest('base64url');
  if (mac !== parts[2]) return '0';
  const claims = JSON.parse(Buffer.from(parts[1], 'base64url').toString());
  return claims.exp > Date.now() / 1000 && claims.iss === 'fluxor' && claims.aud === 'api' ? '1' : '0';
}
export default { ok };
`

/** nginx with two request limits, a connection limit, and tokens verified in njs with this secret. */
export function nginxJwtLimits(secret: string): Subject {
  return {
    name: 'nginx + limits + njs JWT',
    available: () => findOnPath('nginx') !== undefined && NJS_MODULE !== undefined,
    version: nginxVersion,
    start: (port) =>
      startNginx(
        {
          modules: [NJS_MODULE!],
          files: { 'jwt.js': njsScript(secret) },
          http: `js_path $FOLDER; js_import jwt from jwt.js; js_set $jwt_ok jwt.ok; ${LIMIT_ZONES} ${nginxUpstream(port)}
  server { listen 127.0.0.1:$PORT backlog=4096; location / { if ($jwt_ok != 1) { return 401; } ${LIMITS} ${NGINX_PROXY} } }`,
        },
        PROXY_CORE,
      ),
    async prove(url, headers) {
      const refused = await fetch(url, { headers: { authorization: `${headers['authorization']}x` } })
      await refused.text()
      if (refused.status !== 401) throw new Error(`a token with a wrong signature got ${refused.status}`)
    },
  }
}

export const nginxCache = nginx(
  'nginx proxy_cache hit',
  (port) => `${nginxUpstream(port)} proxy_cache_path $FOLDER/cache keys_zone=hit:10m max_size=64m inactive=1h;
  server { listen 127.0.0.1:$PORT backlog=4096; location / { proxy_cache hit; proxy_cache_valid 200 1h; ${NGINX_PROXY} } }`,
)

export const haproxy: Subject = {
  name: 'HAProxy',
  available: () => findOnPath('haproxy') !== undefined,
  version: () => firstLine(findOnPath('haproxy')!, '-v'),
  async start(upstreamPort) {
    const folder = temporaryFolder()
    const port = await freePort()
    const file = join(folder, 'haproxy.cfg')
    writeFileSync(
      file,
      `global
  nbthread 1
  maxconn 2000
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  http-reuse always
  option forwardfor
frontend in
  bind 127.0.0.1:${port} backlog 4096
  default_backend app
backend app
  server one 127.0.0.1:${upstreamPort}
`,
    )
    return launch({ command: [findOnPath('haproxy')!, '-f', file, '-db'], port, folder })
  },
}

export const caddy: Subject = {
  name: 'Caddy',
  available: () => findOnPath('caddy') !== undefined,
  version: () => `Caddy ${firstLine(findOnPath('caddy')!, 'version')}`,
  async start(upstreamPort) {
    const folder = temporaryFolder()
    const port = await freePort()
    const file = join(folder, 'Caddyfile')
    writeFileSync(
      file,
      `{
  admin off
  auto_https off
}
http://127.0.0.1:${port} {
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:${upstreamPort}
}
`,
    )
    const command = [findOnPath('caddy')!, 'run', '--config', file, '--adapter', 'caddyfile']
    return launch({ command, port, folder, env: { HOME: folder, XDG_DATA_HOME: folder, GOMAXPROCS: '1' } })
  },
}

export const varnish: Subject = {
  name: 'Varnish hit',
  available: () => findOnPath('varnishd') !== undefined,
  version: () => firstLine('sh', '-c', `'${findOnPath('varnishd')}' -V 2>&1`),
  async start(upstreamPort) {
    const folder = temporaryFolder()
    const port = await freePort()
    const file = join(folder, 'default.vcl')
    writeFileSync(
      file,
      `vcl 4.1;
backend default { .host = "127.0.0.1"; .port = "${upstreamPort}"; }
sub vcl_backend_response { set beresp.ttl = 1h; }
`,
    )
    const command = [findOnPath('varnishd')!, '-F', '-a', `127.0.0.1:${port}`, '-f', file, '-n', join(folder, 'work')]
    return launch({ command: [...command, '-s', 'malloc,64m'], port, folder })
  },
}

/** Runs bench/peers/FILE, which reads its port and what else it needs from the environment. */
export async function startNode(file: string, env: Record<string, string>, core = PROXY_CORE): Promise<Running> {
  const port = await freePort()
  return launch({
    command: [process.execPath, resolve(peers, file)],
    port,
    folder: temporaryFolder(),
    env: { PORT: `${port}`, NODE_ENV: 'production', ...env },
    core,
  })
}

/** A peer written for Node: a file of bench/peers, or of a folder that `file` prepares. */
function nodePeer(name: string, file: string | (() => string), program?: string, body = SMALL_JSON): Subject {
  return {
    name,
    available: () => program === undefined || findOnPath(program) !== undefined,
    version: () => `node ${process.version}`,
    start: (upstreamPort) =>
      startNode(typeof file === 'string' ? file : file(), { UPSTREAM_PORT: `${upstreamPort}`, BODY: body }),
  }
}

/** @param body at most 100 KiB: it is told by the environment */
export const rawFloor = (body?: string) => nodePeer('Node raw socket, fixed answer', 'raw-floor.ts', undefined, body)
export const rawForward = nodePeer('Node raw sockets, bytes forwarded', 'raw-forward.ts')
export const httpProxy3 = nodePeer('http-proxy-3', 'http-proxy-3.ts')
export const fastifyHttpProxy: Subject = {
  ...nodePeer('@fastify/http-proxy', () => join(installed('fastify-http-proxy'), 'main.ts'), 'npm'),
  version: () => {
    const { dependencies } = JSON.parse(readFileSync(join(peers, 'fastify-http-proxy/package.json'), 'utf8'))
    return `@fastify/http-proxy ${dependencies['@fastify/http-proxy']}, fastify ${dependencies.fastify}`
  },
}

/** Go's fasthttp answering like the home endpoint. */
export const fasthttp: Subject = {
  name: 'Go fasthttp, fixed answer',
  available: () => findOnPath('go') !== undefined,
  version: () => firstLine('go', 'version'),
  async start() {
    const port = await freePort()
    const env = { PORT: `${port}`, BODY: SMALL_JSON, GOMAXPROCS: '1' }
    return launch({ command: [builtGo('fasthttp')], port, folder: temporaryFolder(), env })
  },
}

/** Peers that are built or installed for a run lie in one folder, which goes with it. */
let madeFolder: string | undefined
const made = new Map<string, string>()

function make(name: string, how: (source: string, target: string) => string): string {
  let result = made.get(name)
  if (result === undefined) {
    if (madeFolder === undefined) {
      const folder = temporaryFolder()
      madeFolder = folder
      process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
    }
    result = how(join(peers, name), join(madeFolder, name))
    made.set(name, result)
  }
  return result
}

/** A program of Go in bench/peers, built. Throws with the compiler's words when its modules cannot be had. */
export function builtGo(name: string): string {
  return make(name, (source, target) => {
    execFileSync('go', ['build', '-o', target, '.'], { cwd: source, stdio: 'pipe', timeout: 180_000 })
    return target
  })
}

/** A folder of bench/peers with the packages that it names, none of which the gateway depends on. */
function installed(name: string): string {
  return make(name, (source, target) => {
    cpSync(source, target, { recursive: true })
    const args = ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--no-package-lock']
    execFileSync('npm', args, { cwd: target, stdio: 'pipe', timeout: 180_000 })
    return target
  })
}

/** The compiled command, as published: run.ts builds it first. */
export const GATEWAY_MAIN = fileURLToPath(new URL('../../dist/main.js', import.meta.url))

/**
 * The gateway itself, from its command line. `config` gets the upstream's port, and a folder that goes with the run.
 * @param cores what it is pinned to
 */
export function gateway(
  name: string,
  path: string,
  config: (upstreamPort: number, folder: string) => ConfigObject,
  prove?: Subject['prove'],
  cores = `${PROXY_CORE}`,
): Subject {
  return {
    prove,
    name,
    path,
    available: () => true,
    version: () => `node ${process.version}`,
    async start(upstreamPort) {
      const folder = temporaryFolder()
      const options = { wrap: ['taskset', '-c', cores], main: GATEWAY_MAIN }
      const running = await startGateway(config(upstreamPort, folder), options)
      return {
        pid: running.pid,
        port: running.port,
        async close() {
          await running.close()
          rmSync(folder, { recursive: true, force: true })
        },
      }
    },
  }
}
