/**
 * TLS on a listener: certificates by SNI, client certificates, session tickets that all threads understand. One
 * `TlsDoor` is made of one reading of the files and never changes; new files make a new door, and connections that
 * stand keep theirs. No door listens itself: the listener hands it accepted sockets.
 */

import { createPrivateKey, hkdfSync, X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import type { Socket } from 'node:net'
import { resolve } from 'node:path'
import type tls from 'node:tls'
import type { ListenerConfig, ListenerTlsConfig } from '../config/server.ts'

export type TlsFileKey = 'cert' | 'key' | 'clientCa'

/** A certificate, key or CA that cannot be used: the message names the file and what is wrong with it. */
export class TlsFileError extends Error {
  /** Survives the way from a thread to the supervisor. */
  readonly code = 'ETLSFILE'

  /** Which key names the file. */
  readonly key: TlsFileKey

  constructor(key: TlsFileKey, message: string) {
    super(message)
    this.key = key
  }
}

export interface TlsDoorOptions {
  readonly tls: ListenerTlsConfig
  readonly http2: boolean
  /** Relative file names start here. */
  readonly baseDir: string
  readonly handshakeTimeoutMs: number
  /** What session tickets are sealed with; the same in all threads. */
  readonly secret: string
  readonly nowMs: number
}

/** Mozilla's two current recommendations. TLS 1.3 suites stand in both; OpenSSL takes them apart by name. */
const TLS13 = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256'
const CIPHERS = {
  modern: TLS13,
  intermediate:
    `${TLS13}:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:` +
    'ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305',
}
/** Tickets of the day before are not understood any more: who steals the key of a day reads a day. */
const TICKET_KEY_MS = 24 * 60 * 60 * 1000

interface LoadedCertificate {
  readonly names: readonly string[]
  readonly context: tls.SecureContext
  readonly x509: X509Certificate
}

export class TlsDoor {
  readonly certificates: readonly LoadedCertificate[]
  readonly #server: tls.Server
  readonly #options: TlsDoorOptions
  readonly #exact = new Map<string, tls.SecureContext>()
  /** By what follows the asterisk: `.example.com`. */
  readonly #wildcard = new Map<string, tls.SecureContext>()
  #ticketDay = -1

  /** Throws a `TlsFileError`. */
  constructor(options: TlsDoorOptions, onSecure: (socket: tls.TLSSocket) => void) {
    const { tls: config, baseDir, http2 } = options
    this.#options = options
    const ca = config.clientCa === undefined ? undefined : readClientCa(config.clientCa, baseDir)
    this.certificates = config.certificates.map((files) => loadCertificate(files, config, baseDir, ca))
    for (const { names, context } of this.certificates) {
      for (const name of names) {
        const map = name.startsWith('*.') ? this.#wildcard : this.#exact
        const key = name.startsWith('*.') ? name.slice(1) : name
        if (!map.has(key)) map.set(key, context)
      }
    }
    const [first] = config.certificates
    const { createServer } = process.getBuiltinModule('node:tls') // 5 MB that a plain listener does without
    this.#server = createServer({
      cert: readFileSync(resolve(baseDir, first!.cert)),
      key: readFileSync(resolve(baseDir, first!.key)),
      minVersion: config.minVersion,
      ciphers: CIPHERS[config.ciphers],
      honorCipherOrder: false, // all of them are good: the client knows whether it has AES in hardware
      ALPNProtocols: http2 ? ['h2', 'http/1.1'] : ['http/1.1'],
      SNICallback: (name, done) => done(null, this.#choose(name)),
      handshakeTimeout: options.handshakeTimeoutMs > 0 ? options.handshakeTimeoutMs : 120_000,
      ...(ca !== undefined && { ca, requestCert: true, rejectUnauthorized: config.clientAuth === 'require' }),
    })
    this.#server.on('secureConnection', (socket) => {
      if (this.#accepts(socket)) onSecure(socket)
      else socket.destroy()
    })
    this.#server.on('tlsClientError', (_error, socket) => socket.destroy()) // scanners and wrong clients: no news
    this.turnTickets(options.nowMs)
  }

  /** Begins a handshake; the caller has put its listeners on the socket. */
  accept(socket: Socket): void {
    this.#server.emit('connection', socket)
  }

  #choose(name: string): tls.SecureContext {
    const key = name.toLowerCase()
    const dot = key.indexOf('.')
    return (
      this.#exact.get(key) ??
      (dot > 0 ? this.#wildcard.get(key.slice(dot)) : undefined) ??
      this.certificates[0]!.context
    )
  }

  /** With `clientAuth: optional` a client may come without a certificate, not with one that is not valid. */
  #accepts(socket: tls.TLSSocket): boolean {
    const { clientCa, clientAllow } = this.#options.tls
    if (clientCa === undefined) return true
    const peer = socket.getPeerX509Certificate()
    if (peer === undefined) return this.#options.tls.clientAuth === 'optional'
    if (!socket.authorized) return false
    return clientAllow.length === 0 || subjectNames(peer).some((name) => clientAllow.includes(name))
  }

  /** Field lines about the client's certificate; '' without one. */
  clientFields(socket: tls.TLSSocket): string {
    const { clientCa, clientHeaders } = this.#options.tls
    if (clientCa === undefined || Object.keys(clientHeaders).length === 0) return ''
    const peer = socket.getPeerX509Certificate()
    if (peer === undefined) return ''
    let lines = ''
    for (const [name, part] of Object.entries(clientHeaders)) lines += `${name}: ${fieldValue(partOf(peer, part))}\r\n`
    return lines
  }

  /** Sets the ticket key of today, made of a secret that all threads have. */
  turnTickets(nowMs: number): void {
    const day = Math.floor(nowMs / TICKET_KEY_MS)
    if (day === this.#ticketDay) return
    this.#ticketDay = day
    const { secret } = this.#options
    this.#server.setTicketKeys(Buffer.from(hkdfSync('sha256', secret, '', `tls session tickets ${day}`, 48)))
  }
}

/** Throws a `TlsFileError`. */
export function loadCertificate(
  files: ListenerTlsConfig['certificates'][number],
  config: ListenerTlsConfig,
  baseDir: string,
  ca?: Buffer,
): LoadedCertificate {
  const certFile = resolve(baseDir, files.cert)
  const keyFile = resolve(baseDir, files.key)
  const cert = readFile('cert', certFile)
  const key = readFile('key', keyFile)
  const x509 = parsed('cert', certFile, () => new X509Certificate(cert))
  const privateKey = parsed('key', keyFile, () => createPrivateKey(key))
  if (!x509.checkPrivateKey(privateKey)) {
    throw new TlsFileError('key', `the key in ${keyFile} is not that of ${certFile}`)
  }
  const context = parsed('cert', certFile, () =>
    process.getBuiltinModule('node:tls').createSecureContext({
      cert,
      key,
      minVersion: config.minVersion,
      ciphers: CIPHERS[config.ciphers],
      ...(ca !== undefined && { ca }),
    }),
  )
  return { names: certificateNames(x509), context, x509 }
}

/** Throws a `TlsFileError`. */
export function readClientCa(file: string, baseDir: string): Buffer {
  const path = resolve(baseDir, file)
  const ca = readFile('clientCa', path)
  parsed('clientCa', path, () => new X509Certificate(ca))
  return ca
}

const HELD = { cert: 'certificate', key: 'private key', clientCa: 'CA certificate' } as const

function readFile(key: TlsFileKey, file: string): Buffer {
  try {
    return readFileSync(file)
  } catch (error) {
    throw new TlsFileError(key, `the file with the ${HELD[key]} cannot be read: ${(error as Error).message}`)
  }
}

function parsed<T>(key: TlsFileKey, file: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    throw new TlsFileError(key, `${file} holds no usable ${HELD[key]} in PEM: ${(error as Error).message}`)
  }
}

/** Lower-case DNS names; the common name where there is no subjectAltName (RFC 6125 §6.4.4). */
export function certificateNames(x509: X509Certificate): string[] {
  const names = alternativeNames(x509).filter(({ kind }) => kind === 'DNS')
  if (names.length > 0) return names.map(({ value }) => value.toLowerCase())
  const common = commonName(x509)
  return common === '' ? [] : [common.toLowerCase()]
}

function commonName(x509: X509Certificate): string {
  return /(?:^|\n)CN=([^\n]*)/.exec(x509.subject)?.[1] ?? ''
}

/** `DNS:a, DNS:b, URI:spiffe://x`; values with a comma or a quote are JSON strings there. */
function alternativeNames(x509: X509Certificate): { kind: string; value: string }[] {
  const text = x509.subjectAltName ?? ''
  return [...text.matchAll(/([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)/g)].map(([, kind, value]) => ({
    kind: kind!,
    value: value!.startsWith('"') ? (JSON.parse(value!) as string) : value!,
  }))
}

/** What an allow-list may name: the common name and every alternative name. */
function subjectNames(x509: X509Certificate): string[] {
  return [commonName(x509), ...alternativeNames(x509).map(({ value }) => value)]
}

function partOf(peer: X509Certificate, part: ListenerTlsConfig['clientHeaders'][string]): string {
  switch (part) {
    case 'subject':
      return peer.subject.split('\n').join(', ')
    case 'commonName':
      return commonName(peer)
    case 'san':
      return peer.subjectAltName ?? ''
    case 'serial':
      return peer.serialNumber
    case 'fingerprint':
      return peer.fingerprint256.replaceAll(':', '').toLowerCase()
  }
}

/** A certificate may say anything: what is no visible ASCII leaves percent-encoded. */
function fieldValue(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]+/g, (part) => encodeURIComponent(part.toWellFormed())).trim()
}

/** Tells whether one of a listener's files has changed since it was asked last. */
export class TlsFiles {
  readonly #paths: readonly string[]
  #seen: string

  constructor(config: ListenerTlsConfig, baseDir: string) {
    const files = [...config.certificates.flatMap(({ cert, key }) => [cert, key]), config.clientCa]
    this.#paths = files.filter((file) => file !== undefined).map((file) => resolve(baseDir, file))
    this.#seen = this.#look()
  }

  changed(): boolean {
    const now = this.#look()
    if (now === this.#seen) return false
    this.#seen = now
    return true
  }

  #look(): string {
    let all = ''
    for (const path of this.#paths) {
      const stat = statSync(path, { throwIfNoEntry: false })
      all += stat === undefined ? '-;' : `${stat.ino} ${stat.size} ${stat.mtimeMs};`
    }
    return all
  }
}

/** Seconds since 1970 at which each certificate of the listeners ends, read from the files as they are now. */
export function* certificateExpiry(listeners: readonly ListenerConfig[], baseDir: string) {
  for (const { address, tls: config } of listeners) {
    for (const { cert } of config?.certificates ?? []) {
      const seconds = expirySeconds(resolve(baseDir, cert))
      if (seconds === undefined) continue
      yield {
        name: 'fluxor_tls_certificate_expiry_timestamp_seconds',
        help: 'When the certificate ends, by listener and file.',
        type: 'gauge' as const,
        labels: { listener: `${address.host}:${address.port}`, certificate: cert },
        value: seconds,
      }
    }
  }
}

function expirySeconds(file: string): number | undefined {
  try {
    return Date.parse(new X509Certificate(readFileSync(file)).validTo) / 1000
  } catch {
    return undefined // the listener that could not load it has said so
  }
}
