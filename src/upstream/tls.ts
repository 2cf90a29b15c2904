/**
 * `upstreams.X.tls` as options for tls.connect: files read, pins checked. At load; what a connection needs is ready.
 */

import { createHash, createPrivateKey, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type tls from 'node:tls'
import type { UpstreamConfig } from './config.ts'

/** A file that the config names cannot be used. */
export class TlsFileError extends Error {
  override readonly name = 'ConfigError'
  /** Which key names it. */
  readonly key: TlsFileKey
  readonly reason: string

  constructor(where: string, key: TlsFileKey, reason: string) {
    super(`${where}.${key}: ${reason}`)
    this.key = key
    this.reason = reason
  }
}

type TlsFileKey = 'ca' | 'cert' | 'key'

const HELD = { ca: 'CA certificate', cert: 'certificate', key: 'private key' } as const

/**
 * @param baseDir where relative file names start
 * @param where key of the config, for messages: `upstreams.app.tls`
 * @throws TlsFileError
 */
export function readUpstreamTls(
  config: UpstreamConfig['tls'],
  baseDir: string,
  where: string,
): tls.ConnectionOptions | undefined {
  if (config === undefined) return undefined
  const { ca, cert, key, pin, verify, minVersion } = config
  const read = (name: TlsFileKey, file: string): Buffer => {
    const path = resolve(baseDir, file)
    let pem: Buffer
    try {
      pem = readFileSync(path)
    } catch (error) {
      throw new TlsFileError(where, name, `${path} cannot be read: ${(error as NodeJS.ErrnoException).code}`)
    }
    try {
      // OpenSSL takes a file of CAs that holds none, and then trusts nobody.
      if (name === 'key') createPrivateKey(pem)
      else new X509Certificate(pem)
    } catch (error) {
      throw new TlsFileError(where, name, `${path} holds no usable ${HELD[name]} in PEM: ${(error as Error).message}`)
    }
    return pem
  }
  const options: tls.ConnectionOptions = {
    ...(ca !== undefined && { ca: read('ca', ca) }),
    ...(cert !== undefined && { cert: read('cert', cert), key: read('key', key!) }),
    minVersion,
    rejectUnauthorized: verify,
    ...(pin !== undefined && { checkServerIdentity: pinned(new Set(pin)) }),
  }
  try {
    process.getBuiltinModule('node:tls').createSecureContext(options)
  } catch (error) {
    throw new TlsFileError(where, cert === undefined ? 'ca' : 'key', (error as Error).message)
  }
  return options
}

/** The usual check of the name, and then of the key. */
function pinned(pins: ReadonlySet<string>): NonNullable<tls.ConnectionOptions['checkServerIdentity']> {
  return (host, cert) => {
    const error = process.getBuiltinModule('node:tls').checkServerIdentity(host, cert)
    if (error !== undefined) return error
    const key = new X509Certificate(cert.raw).publicKey.export({ type: 'spki', format: 'der' })
    const pin = createHash('sha256').update(key).digest('base64')
    return pins.has(pin)
      ? undefined
      : Object.assign(new Error(`the public key ${pin} is not pinned`), { code: 'ERR_TLS_PIN' })
  }
}
