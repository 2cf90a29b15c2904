/**
 * The package as a library: the gateway of the command line, inside another Node process. The caller owns the process:
 * no signal is taken here, nothing exits, and what is wrong with a config is a `ConfigError` with all of its problems.
 *
 *     const gateway = createGateway({ version: 1, upstreams: { … }, routes: [ … ] })
 *     await gateway.start()
 */

import { join } from 'node:path'
import type { z } from 'zod'
import { type Environment, type LoadedConfig, loadConfig, parseConfig } from './config/load.ts'
import { ConfigError, formatProblem, type Problem } from './config/problems.ts'
import type { configSchema } from './config/schema.ts'
import { ListenError as BindError, Gateway } from './gateway.ts'
import { VERSION } from './version.ts'

export { ConfigError, type Environment, type Problem, VERSION }

/** A port that cannot be had, and what to do about it. Typed by itself, so that its module's types stay inside. */
export const ListenError: new (message?: string) => Error = BindError

/** The keys of gateway.yaml as a value: durations are `'500ms'`, sizes `'64KiB'`, and what is left out has its default. */
export type ConfigInput = z.input<typeof configSchema>

export interface CreateOptions {
  /** Where `${NAME}` comes from; default `process.env`. */
  readonly env?: Environment
  /** With a config that is a value: where its relative file names start; default the working directory. */
  readonly baseDir?: string
  /** Told once for each warning about a config, also at a reload. Default: the gateway's own log. */
  readonly onWarning?: (warning: Problem) => void
}

export interface CloseOptions {
  /** false cuts at once what `server.shutdown.drain` would wait for. */
  readonly drain?: boolean
}

/** One endpoint of an upstream, over all threads. */
export interface EndpointState {
  readonly url: string
  /** `healthy`, or what keeps it from getting requests. */
  readonly state: string
  /** Why; '' when healthy. */
  readonly reason: string
  readonly inFlight: number
  readonly weight: number
}

export interface RunningGateway {
  /** Binds the listeners. Rejects with a `ListenError` when one cannot be bound; nothing runs then. */
  start(): Promise<void>
  /**
   * Takes a new config in one step, or none of it: rejects with a `ConfigError`, and everything is as before. Without an
   * argument the file that it was made of is read again.
   */
  reload(config?: ConfigInput | string): Promise<void>
  /** Drains and ends. Returns how many exchanges had to be cut. A second call gives the answer of the first. */
  close(options?: CloseOptions): Promise<number>
  /** Ports of `server.listen`, in its order, once started: what 0 became. */
  readonly ports: readonly number[]
  /** Port of the admin listener; 0 when there is none. */
  readonly adminPort: number
  /** `http://127.0.0.1:PORT` of the first listener; https where it has TLS. */
  readonly url: string
  /** What `/readyz` answers. */
  readonly ready: boolean
  /** State of every endpoint, by upstream. */
  upstreams(): Promise<Record<string, EndpointState[]>>
}

/**
 * A gateway that is not started yet. Throws a `ConfigError` with every problem of the config at once.
 *
 * @param config the content of a gateway.yaml as a value, or the path of such a file
 */
export function createGateway(config: ConfigInput | string, options: CreateOptions = {}): RunningGateway {
  const { env = process.env, baseDir = process.cwd(), onWarning } = options
  let source = config
  const load = (from: ConfigInput | string): LoadedConfig =>
    // JSON is YAML: a value takes the way of a file, with the same checks and the same variables.
    typeof from === 'string' ? loadConfig(from, env) : parseConfig(JSON.stringify(from), join(baseDir, 'config'), env)
  const loaded = load(config)
  const gateway = new Gateway(loaded.config, typeof config === 'string' ? { reload: () => reload() } : {})
  const warn = ({ warnings }: LoadedConfig) => {
    for (const warning of warnings) {
      if (onWarning !== undefined) onWarning(warning)
      else gateway.logger.warn(formatProblem({ ...warning, source: undefined }))
    }
  }
  const reload = async (next?: ConfigInput | string): Promise<void> => {
    if (next === undefined && typeof source !== 'string') throw new TypeError('there is no file to read again')
    try {
      const from = next ?? source
      const fresh = load(from)
      await gateway.reload(fresh.config)
      source = from
      warn(fresh)
    } catch (error) {
      gateway.reloadFailed()
      throw error
    }
  }
  let started = false
  let closing: Promise<number> | undefined
  warn(loaded)
  return {
    async start() {
      if (started) throw new TypeError('the gateway has been started before')
      started = true
      await gateway.start()
    },
    reload,
    close({ drain = true } = {}) {
      closing ??= (async () => {
        const cut = started && drain ? await gateway.drain() : 0
        await gateway.close()
        return cut
      })()
      return closing
    },
    get ports() {
      return gateway.ports
    },
    get adminPort() {
      return gateway.adminPort
    },
    get url() {
      const [listener] = gateway.config.server.listen
      return `http${listener?.tls === undefined ? '' : 's'}://127.0.0.1:${gateway.ports[0] ?? 0}`
    },
    get ready() {
      return gateway.readiness.ready
    },
    upstreams: () => gateway.upstreams(),
  }
}
