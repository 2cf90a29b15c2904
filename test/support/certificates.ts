/** Certificates made by openssl into a folder of their own. */

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface CertificateFiles {
  readonly cert: string
  readonly key: string
}

export class Certificates {
  readonly folder = mkdtempSync(join(tmpdir(), 'fluxor-certificates-'))
  readonly ca: CertificateFiles

  constructor() {
    this.ca = this.#files('ca')
    this.#openssl(
      'req',
      '-x509',
      '-subj',
      '/CN=Test CA',
      '-days',
      '2',
      ...EC,
      '-keyout',
      this.ca.key,
      '-out',
      this.ca.cert,
    )
  }

  /** A certificate of the CA. @param names subjectAltName entries, such as `DNS:a.test` */
  issue(file: string, commonName: string, names: readonly string[] = [], days = 2): CertificateFiles {
    const files = this.#files(file)
    const request = join(this.folder, `${file}.csr`)
    const extensions = join(this.folder, `${file}.ext`)
    writeFileSync(extensions, names.length === 0 ? '' : `subjectAltName=${names.join(',')}\n`)
    this.#openssl('req', '-new', '-subj', `/CN=${commonName}`, ...EC, '-keyout', files.key, '-out', request)
    this.#openssl(
      'x509', '-req', '-in', request, '-CA', this.ca.cert, '-CAkey', this.ca.key, '-CAcreateserial', '-days', String(days),
      '-extfile', extensions, '-out', files.cert,
    ) // biome-ignore format: an openssl command
    return files
  }

  #files(name: string): CertificateFiles {
    return { cert: join(this.folder, `${name}.crt`), key: join(this.folder, `${name}.key`) }
  }

  #openssl(...args: string[]): void {
    execFileSync('openssl', args, { stdio: 'pipe' })
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}

const EC = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
