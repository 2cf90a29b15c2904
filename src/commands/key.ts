/** `key hash [KEY]`: what stands in a config in place of an API key. Without a key a new one is made. */

import { createHash, randomBytes } from 'node:crypto'
import { fstatSync, readFileSync } from 'node:fs'
import { EXIT, type Invocation } from './cli.ts'

export async function keyHash({ positionals }: Invocation): Promise<number> {
  const given = positionals[0] ?? readStdin()
  if (given !== undefined) {
    console.log(sha256(given))
    return EXIT.ok
  }
  const key = `flx_${randomBytes(24).toString('base64url')}`
  console.log(`key:    ${key}\nsha256: ${sha256(key)}`)
  return EXIT.ok
}

function sha256(key: string): string {
  return createHash('sha256').update(key).digest('hex')
}

/** A key from a file or a pipe, so that it need not stand in the shell's history. A terminal is not waited for. */
function readStdin(): string | undefined {
  try {
    const kind = fstatSync(0)
    if (!kind.isFile() && !kind.isFIFO() && !kind.isSocket()) return undefined
    const text = readFileSync(0, 'utf8').replace(/\r?\n$/, '')
    return text === '' ? undefined : text
  } catch {
    return undefined
  }
}
