/** `run`: the gateway until a signal ends it. SIGTERM and SIGINT drain (a second one ends at once), SIGHUP reloads. */

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { LoadedConfig, QuickOptions } from '../config/load.ts'
import { loadApart } from '../config/load-apart.ts'
import { ConfigError, formatProblem } from '../config/problems.ts'
import { type ConfigWatch, watchConfig } from '../config/watch.ts'
import { EXIT, type Invocation, UsageError } from './cli.ts'

/** Longer than the first probes of an orchestrator take: none of them waits for it. */
const GIVE_BACK_MS = 1000
/** Share of the time that the event loop of a process without load is busy, at most. */
const QUIET = 0.2

interface RunOptions {
  readonly configPath?: string
  readonly quick?: QuickOptions
  readonly watch: boolean
}

export function run({ values }: Invocation): Promise<number> {
  return runGateway(runOptions(values))
}

function runOptions(values: Invocation['values']): RunOptions {
  const { config, upstream, listen, admin, watch } = values as Record<string, string | undefined>
  const maxCcu = values['max-ccu'] as string | undefined
  if (config !== undefined) {
    const other = ['upstream', 'listen', 'admin', 'max-ccu'].find((name) => values[name] !== undefined)
    if (other !== undefined)
      throw new UsageError(`--${other} is for the form without a file; with -c it stands in the file`)
    return { configPath: config, watch: Boolean(watch) }
  }
  if (upstream === undefined) throw new UsageError('what to run? -c FILE, or --upstream URL without a file')
  if (watch) throw new UsageError('--watch needs a file: -c FILE')
  if (maxCcu !== undefined && !/^[1-9]\d{0,7}$/.test(maxCcu)) {
    throw new UsageError(`--max-ccu expects a whole number from 1, not "${maxCcu}"`)
  }
  return {
    quick: { upstream, listen, admin, maxCcu: maxCcu === undefined ? undefined : Number(maxCcu) },
    watch: false,
  }
}

async function runGateway({ configPath, quick, watch }: RunOptions): Promise<number> {
  const load = () => loadApart(quick === undefined ? { path: configPath! } : { quick })
  // Side by side. A ConfigError is told by the command line.
  const [loaded, { Gateway, ListenError }] = await Promise.all([load(), import('../gateway.ts')])
  let watching: ConfigWatch | undefined
  let reloaded: Promise<void> = Promise.resolve()
  /** One after the other: the file as it was last must be the one that stays. */
  const reload = (): Promise<void> => {
    reloaded = reloaded.catch(() => {}).then(takeConfig)
    return reloaded
  }
  const takeConfig = async (): Promise<void> => {
    try {
      const next = await load()
      await gateway.reload(next.config)
      watching?.update(next.files)
      logger.info('config reloaded', { file: configPath })
      warn(next)
    } catch (error) {
      gateway.reloadFailed()
      if (error instanceof ConfigError)
        for (const problem of error.problems) logger.error(`config not taken: ${formatProblem(problem)}`)
      else logger.error('config not taken', { err: error })
      throw error
    }
  }
  const gateway = new Gateway(loaded.config, {
    adminOptional: quick !== undefined && quick.admin === undefined,
    ...(quick === undefined && { reload }),
  })
  const { logger } = gateway
  const warn = ({ warnings }: LoadedConfig) => {
    for (const { path, message, file, line } of warnings) logger.warn(`${path}: ${message}`, { file, line })
  }
  warn(loaded)
  process.on('uncaughtException', (error) => {
    gateway.die('the gateway is broken and ends', error)
    process.exit(EXIT.failed)
  })
  try {
    await gateway.start()
  } catch (error) {
    // When a file that the config names is the reason, its line is told.
    if (configPath !== undefined) (await import('./files.ts')).requireFiles(configPath, loaded)
    if (!(error instanceof ListenError)) throw error
    process.stderr.write(`${error.message}\n`)
    return EXIT.failed
  }

  const started = performance.eventLoopUtilization()
  setTimeout(() => {
    // Who has clients already must not wait for a collection, and will have its own.
    if (performance.eventLoopUtilization(started).utilization < QUIET) giveBackMemory()
  }, GIVE_BACK_MS).unref()

  const reloadInBackground = () => void reload().catch(() => {}) // told in the log
  if (watch) watching = watchConfig(loaded.files, reloadInBackground)
  process.on('SIGHUP', reloadInBackground)
  process.on(
    'SIGUSR2',
    () => void gateway.reopenLogs().catch((err: unknown) => logger.error('log not reopened', { err })),
  )

  return new Promise((resolve) => {
    let stopping = false
    const stop = async (signal: string) => {
      if (stopping) {
        process.exit(EXIT.failed)
      }
      stopping = true
      watching?.close()
      logger.info('stopping', { signal })
      const cut = await gateway.drain()
      if (cut > 0) logger.warn('exchanges were cut', { exchanges: cut })
      logger.info('stopped', { cut })
      await gateway.close()
      resolve(cut > 0 ? EXIT.failed : EXIT.ok)
    }
    process.on('SIGTERM', stop)
    process.on('SIGINT', stop)
  })
}

/** What the start took and nothing needs any more goes back to the system: V8 by itself keeps it until there is load. */
function giveBackMemory(): void {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as (options: { type: 'major'; flavor: 'last-resort' }) => void
  collect({ type: 'major', flavor: 'last-resort' })
}
