/** `purge`: takes answers out of the cache of a running gateway, by its admin listener. */

import { adminTarget, askAdmin } from './admin-client.ts'
import { CommandError, EXIT, type Invocation, UsageError } from './cli.ts'

export async function purge(invocation: Invocation): Promise<number> {
  const { values, positionals: urls } = invocation
  const prefixes = (values['prefix'] as string[] | undefined) ?? []
  const tags = (values['tag'] as string[] | undefined) ?? []
  if (urls.length + prefixes.length + tags.length === 0) throw new UsageError('what to purge? URL …, --prefix or --tag')
  const body = JSON.stringify({ urls, prefixes, tags, soft: values['soft'] === true })
  const { status, text } = await askAdmin(await adminTarget(invocation), 'POST', '/purge', { body })
  if (status === 401 || status === 403)
    throw new CommandError('the admin listener wants its token: --token, $ADMIN_TOKEN or -c FILE')
  if (status >= 300) throw new CommandError(`the gateway answered ${status}: ${text.trim()}`)
  console.log(text.trim())
  return EXIT.ok
}
