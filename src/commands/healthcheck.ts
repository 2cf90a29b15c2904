/** `healthcheck`: exit code 0 when a running gateway lives (or is ready), 1 when not. For HEALTHCHECK in a container. */

import { adminTarget, askAdmin } from './admin-client.ts'
import { CommandError, EXIT, type Invocation, UsageError } from './cli.ts'

export async function healthcheck(invocation: Invocation): Promise<number> {
  const { ready, timeout = '2s' } = invocation.values as { ready?: boolean; timeout?: string }
  const [, digits, unit] = /^([1-9]\d{0,5})(ms|s)$/.exec(timeout) ?? []
  if (digits === undefined) throw new UsageError(`--timeout expects a time such as 2s or 500ms, not "${timeout}"`)
  const timeoutMs = Number(digits) * (unit === 's' ? 1000 : 1)
  const path = ready ? '/readyz' : '/livez'
  const { status, text } = await askAdmin(await adminTarget(invocation), 'GET', path, { timeoutMs })
  if (status !== 200) throw new CommandError(`${path} answered ${status}: ${text.trim()}`)
  return EXIT.ok
}
