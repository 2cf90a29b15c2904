/** Talks to the admin listener of a running gateway, for the commands that do. Small: `healthcheck` runs every few seconds. */

import { request } from 'node:http'
import { parseAddress } from '../config/host-port.ts'
import { CommandError, type Invocation, UsageError } from './cli.ts'

const MAX_ANSWER_BYTES = 16 * 1024 * 1024

export interface AdminTarget {
  readonly host: string
  readonly port: number
  readonly token: string | undefined
}

/** From `--admin` and `--token`, else from the config of `-c`, else the default address and $ADMIN_TOKEN. */
export async function adminTarget({ values }: Invocation): Promise<AdminTarget> {
  const { admin, config, token } = values as Record<string, string | undefined>
  const given = token ?? process.env['ADMIN_TOKEN']
  if (admin !== undefined) {
    const address = parseAddress(admin.replace(/^http:\/\//, '').replace(/\/$/, ''))
    if (address === undefined) throw new UsageError(`--admin expects an address such as 127.0.0.1:9901, not "${admin}"`)
    return { ...reachable(address), token: given }
  }
  if (config === undefined) return { host: '127.0.0.1', port: 9901, token: given }
  const { loadConfig } = await import('../config/load.ts')
  const listener = loadConfig(config).config.server.admin
  if (listener === false) throw new CommandError(`${config} opens no admin listener`)
  return { ...reachable(listener.address), token: token ?? listener.token ?? given }
}

/** What is bound to all interfaces is reached on the loopback one. */
function reachable({ host, port }: { host: string; port: number }): { host: string; port: number } {
  return { host: host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host, port }
}

export interface AdminAnswer {
  readonly status: number
  readonly text: string
}

/** @throws CommandError when there is no answer in time */
export function askAdmin(
  target: AdminTarget,
  method: 'GET' | 'POST',
  path: string,
  options: { body?: string; timeoutMs?: number } = {},
): Promise<AdminAnswer> {
  const { body, timeoutMs = 10_000 } = options
  const { host, port, token } = target
  return new Promise((resolve, reject) => {
    const failed = (reason: string) => reject(new CommandError(`${host}:${port} ${reason}`))
    const headers: Record<string, string> = { connection: 'close' }
    if (token !== undefined) headers['authorization'] = `Bearer ${token}`
    if (body !== undefined) headers['content-type'] = 'application/json'
    const signal = AbortSignal.timeout(timeoutMs)
    const outgoing = request({ host, port, method, path, headers, agent: false, signal }, (answer) => {
      let text = ''
      answer.setEncoding('utf8')
      answer.on('data', (chunk: string) => {
        text += chunk
        if (text.length > MAX_ANSWER_BYTES) answer.destroy(new Error('answered more than 16 MiB'))
      })
      answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text }))
      answer.on('error', ({ message }) => failed(message))
    })
    outgoing.on('error', (error: NodeJS.ErrnoException) => {
      failed(
        signal.aborted ? `did not answer within ${timeoutMs} ms` : `cannot be asked (${error.code ?? error.message})`,
      )
    })
    outgoing.end(body)
  })
}
