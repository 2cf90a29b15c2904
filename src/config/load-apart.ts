/**
 * Loads a config in a process that ends with it, at the start and at each reload. zod, YAML and the schema take 30 MB:
 * as a process they go back to the last byte (a thread leaves nearly all of it behind, in V8's pool of pages), another
 * core does the work while the data path is imported, and no request waits while a large file is checked. This file is
 * the entry of that process, too.
 */

import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { LoadedConfig, QuickOptions } from './load.ts'
import { ConfigError, type Problem } from './problems.ts'

/** A file, or the quick form. */
export type ConfigOrigin = { readonly path: string } | { readonly quick: QuickOptions }

type Answer = { loaded: LoadedConfig } | { problems: readonly Problem[]; warnings: readonly Problem[] }

const THIS_FILE = fileURLToPath(import.meta.url)
const ENTRY = 'load-config'
const LONGEST_LOAD_MS = 30_000

/** Rejects with a `ConfigError`, as `loadConfig` and `quickConfig` throw it. */
export async function loadApart(origin: ConfigOrigin): Promise<LoadedConfig> {
  // No process to be had, by a limit of the container: then here, and the memory stays.
  const answer = (await answerApart(origin)) ?? (await answerHere(origin))
  if ('loaded' in answer) return answer.loaded
  throw new ConfigError(answer.problems, answer.warnings)
}

/** Undefined when the system gives no process. Rejects when it was given and did not answer. */
function answerApart(origin: ConfigOrigin): Promise<Answer | undefined> {
  return new Promise((resolve, reject) => {
    let child: ChildProcess
    try {
      child = fork(THIS_FILE, [ENTRY, JSON.stringify(origin)], {
        serialization: 'advanced', // undefined stays
        // Inspectors, agents and heap sizes are asked for the gateway.
        execArgv: [],
        env: { ...process.env, NODE_OPTIONS: '' },
      })
    } catch {
      resolve(undefined) // not permitted
      return
    }
    // A file behind a pipe or a dead mount would be waited for, and with it every reload after this one.
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      reject(new Error(`the config was not read within ${LONGEST_LOAD_MS / 1000} s`))
    }, LONGEST_LOAD_MS)
    child.once('message', resolve as (answer: unknown) => void)
    child.once('error', () => resolve(undefined))
    child.once('exit', (code, signal) => {
      clearTimeout(timer)
      reject(new Error(`the process that reads the config ended without an answer: ${signal ?? code}`))
    })
  })
}

async function answerHere(origin: ConfigOrigin): Promise<Answer> {
  const { loadConfig, quickConfig } = await import('./load.ts')
  try {
    return { loaded: 'path' in origin ? loadConfig(origin.path) : quickConfig(origin.quick) }
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return { problems: error.problems, warnings: error.warnings }
  }
}

if (process.argv[1] === THIS_FILE && process.argv[2] === ENTRY) {
  // Signals to the whole group are the gateway's.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})
  process.send!(await answerHere(JSON.parse(process.argv[3]!)), () => {
    if (process.connected) process.disconnect()
  })
}
