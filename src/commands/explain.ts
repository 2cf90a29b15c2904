/** `explain`: what would become of a request under a config file, and why. Nothing runs, nothing is sent. */

import { loadConfig } from '../config/load.ts'
import { explain as explainRequest, explanationText } from '../explain.ts'
import { Services } from '../services.ts'
import { createSharedMemory } from '../shared/memory.ts'
import { Snapshot } from '../snapshot.ts'
import { CommandError, EXIT, type Invocation, UsageError } from './cli.ts'

export async function explain({ values, positionals }: Invocation): Promise<number> {
  const file = values['config']
  if (typeof file !== 'string') throw new UsageError('which config? -c FILE')
  const url = positionals.length > 1 ? positionals[1] : positionals[0]
  if (url === undefined) throw new UsageError('which request? METHOD URL')
  const method = positionals.length > 1 ? positionals[0]! : 'GET'
  const { config } = loadConfig(file)
  const offline = {
    ...config,
    redis: {},
    upstreams: Object.fromEntries(
      Object.entries(config.upstreams).map(([name, upstream]) => [name, { ...upstream, health: undefined }]),
    ),
  }
  const quiet = {
    ...offline,
    logging: {
      ...config.logging,
      level: 'silent' as const,
      access: { ...config.logging.access, only: 'none' as const },
    },
  }
  const memory = createSharedMemory(quiet, 1)
  const services = new Services({ thread: 0, threads: 1 }, memory, quiet)
  try {
    services.configure(quiet, memory)
    const snapshot = new Snapshot(quiet, services)
    const headers = (values['header'] as string[] | undefined) ?? []
    const peer = typeof values['peer'] === 'string' ? values['peer'] : '127.0.0.1'
    const explanation = await explainRequest(snapshot, { method: method.toUpperCase(), url, headers, peer })
    process.stdout.write(
      values['json'] === true ? `${JSON.stringify(explanation, null, 2)}\n` : explanationText(explanation),
    )
    return EXIT.ok
  } catch (error) {
    throw new CommandError((error as Error).message)
  } finally {
    await services.close()
  }
}
