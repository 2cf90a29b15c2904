/**
 * From arguments to a command and its exit code. Commands are imported when they are called, so that `healthcheck` or a
 * running gateway carry nothing of the others. Exit codes: 0 ok, 1 failed while running, 64 wrong usage, 78 bad config.
 */

import { parseArgs } from 'node:util'
import { didYouMean } from '../config/suggest.ts'
import { LOADTEST_OPTIONS } from './loadtest-options.ts'

export const EXIT = { ok: 0, failed: 1, usage: 64, config: 78 } as const

/** The command was called in a way that cannot be meant: told with a hint to the help, exit code 64. */
export class UsageError extends Error {}

export interface Invocation {
  readonly values: Readonly<Record<string, string | boolean | string[] | undefined>>
  readonly positionals: readonly string[]
}

export interface Option {
  readonly short?: string
  /** What it takes; without one it is on or off. */
  readonly value?: string
  readonly multiple?: boolean
  readonly describe: string
}

export interface Command {
  readonly summary: string
  /** What follows the command's name. */
  readonly usage: string
  readonly options: Readonly<Record<string, Option>>
  /** Most arguments that are no options. */
  readonly arguments: number
  run(invocation: Invocation): Promise<number>
}

const CONFIG = { short: 'c', value: 'FILE', describe: 'The config file.' } as const
const ADMIN = { value: 'ADDRESS', describe: 'The admin listener; default 127.0.0.1:9901.' } as const
const ADMIN_TOKEN = { value: 'TOKEN', describe: 'Its token; default $ADMIN_TOKEN.' } as const

/** In the order of the help. */
export const COMMANDS: Readonly<Record<string, Command>> = {
  run: {
    summary: 'Runs the gateway; what happens without a command.',
    usage: '-c FILE [--watch] | --upstream URL [--listen ADDRESS] [--admin ADDRESS] [--max-ccu N]',
    options: {
      config: CONFIG,
      watch: { describe: 'Reloads when the config changes; SIGHUP always does.' },
      upstream: { value: 'URL', describe: 'Without a file: everything goes to this service.' },
      listen: { value: 'ADDRESS', describe: 'With --upstream: where to listen; default :8080.' },
      admin: { value: 'ADDRESS', describe: 'With --upstream: the admin listener; default 127.0.0.1:9901.' },
      'max-ccu': { value: 'N', describe: 'With --upstream: most exchanges in flight; default 5000.' },
    },
    arguments: 0,
    run: async (invocation) => (await import('./run.ts')).run(invocation),
  },
  check: {
    summary: 'Checks a config and tells everything that is wrong with it.',
    usage: '-c FILE [--strict]',
    options: {
      config: CONFIG,
      strict: { describe: "Warnings count as errors, and the advisor's rules are asked." },
    },
    arguments: 1,
    run: async (invocation) => (await import('./check.ts')).check(invocation),
  },
  explain: {
    summary: 'Tells what would become of a request, and why.',
    usage: '-c FILE [METHOD] URL [-H "Name: value" …] [--peer ADDRESS] [--json]',
    options: {
      config: CONFIG,
      header: { short: 'H', multiple: true, value: 'LINE', describe: 'A field of the request.' },
      peer: { value: 'ADDRESS', describe: 'Where it comes from; default 127.0.0.1.' },
      json: { describe: 'As JSON.' },
    },
    arguments: 2,
    run: async (invocation) => (await import('./explain.ts')).explain(invocation),
  },
  top: {
    summary: 'Shows what a running gateway is doing, second by second.',
    usage: '[--once] [--admin ADDRESS] [-c FILE]',
    options: {
      once: { describe: 'One look, then ends.' },
      admin: ADMIN,
      token: ADMIN_TOKEN,
      config: { ...CONFIG, describe: 'Takes address and token from this config.' },
    },
    arguments: 0,
    run: async (invocation) => (await import('./top.ts')).top(invocation),
  },
  schema: {
    summary: 'Prints the JSON Schema of the config file.',
    usage: '[--check FILE]',
    options: { check: { value: 'FILE', describe: 'Fails unless the file holds that schema.' } },
    arguments: 0,
    run: async (invocation) => (await import('./schema.ts')).schema(invocation),
  },
  loadtest: {
    summary: 'Puts a service under load and tells whether it met its objectives.',
    usage:
      "[load|spike|stress|soak] --url URL | -c FILE [--users N | --rate N] [--duration 30s] [--slo 'p95<200ms,errors<0.1%']",
    options: LOADTEST_OPTIONS,
    arguments: 1,
    run: async (invocation) => (await import('./loadtest.ts')).loadtest(invocation),
  },
  token: {
    summary: 'Signs a token for trying out.',
    usage: '-c FILE [--jwt NAME] | --secret SECRET  [--sub NAME] [--claim NAME=VALUE …] [--expires-in 1h]',
    options: {
      config: CONFIG,
      jwt: { value: 'NAME', describe: 'The JWT policy whose secret signs; default: the only one, or main.' },
      secret: { value: 'SECRET', describe: 'A secret in place of a file.' },
      sub: { value: 'NAME', describe: 'The subject; default: test.' },
      claim: { multiple: true, value: 'NAME=VALUE', describe: 'A claim; JSON values are taken as such.' },
      'expires-in': { value: 'TIME', describe: 'How long it is valid; default 1h.' },
    },
    arguments: 0,
    run: async (invocation) => (await import('./token.ts')).token(invocation),
  },
  'key hash': {
    summary: 'Prints the SHA-256 of an API key, or of a new one.',
    usage: '[KEY]',
    options: {},
    arguments: 1,
    run: async (invocation) => (await import('./key.ts')).keyHash(invocation),
  },
  purge: {
    summary: 'Takes answers out of the cache of a running gateway.',
    usage: '[URL …] [--prefix URL] [--tag TAG] [--soft] [--admin ADDRESS] [-c FILE]',
    options: {
      prefix: { multiple: true, value: 'URL', describe: 'Everything that begins with it.' },
      tag: { multiple: true, value: 'TAG', describe: 'Everything with this Surrogate-Key or Cache-Tag.' },
      soft: { describe: 'Makes stale instead of taking out.' },
      admin: ADMIN,
      token: ADMIN_TOKEN,
      config: { ...CONFIG, describe: 'Takes address and token from this config.' },
    },
    arguments: 1000,
    run: async (invocation) => (await import('./purge.ts')).purge(invocation),
  },
  healthcheck: {
    summary: 'Asks a running gateway whether it lives; for containers without curl.',
    usage: '[--ready] [--admin ADDRESS] [--timeout 2s] [-c FILE]',
    options: {
      ready: { describe: 'Asks whether it is ready instead.' },
      admin: ADMIN,
      timeout: { value: 'TIME', describe: 'Longest wait; default 2s.' },
      config: { ...CONFIG, describe: 'Takes the address from this config.' },
    },
    arguments: 0,
    run: async (invocation) => (await import('./healthcheck.ts')).healthcheck(invocation),
  },
}

const GLOBAL_OPTIONS = ['help', 'h', 'version', 'v']

/** Runs what the arguments ask for. Never throws: what went wrong is on standard error. */
export async function main(args: readonly string[]): Promise<number> {
  try {
    return await dispatch(args)
  } catch (error) {
    return report(error)
  }
}

async function dispatch(args: readonly string[]): Promise<number> {
  const { name, command, rest } = chooseCommand(args)
  if (rest.some((arg) => arg === '--help' || arg === '-h')) {
    console.log(name === '' ? await help() : commandHelp(name, command))
    return EXIT.ok
  }
  if (name === '' && rest.some((arg) => arg === '--version' || arg === '-v')) {
    console.log(await version())
    return EXIT.ok
  }
  if (args.length === 0) {
    console.error(await help())
    return EXIT.usage
  }
  return command.run(parse(name, command, rest))
}

function chooseCommand(args: readonly string[]): { name: string; command: Command; rest: readonly string[] } {
  const [first, second] = args
  if (first === undefined || first.startsWith('-')) return { name: '', command: COMMANDS['run']!, rest: args }
  if (first === 'help') {
    const command = COMMANDS[second ?? '']
    return { name: command ? second! : '', command: command ?? COMMANDS['run']!, rest: ['--help'] }
  }
  const pair = `${first} ${second}`
  if (Object.hasOwn(COMMANDS, pair)) return { name: pair, command: COMMANDS[pair]!, rest: args.slice(2) }
  if (Object.hasOwn(COMMANDS, first)) return { name: first, command: COMMANDS[first]!, rest: args.slice(1) }
  const group = Object.keys(COMMANDS).filter((known) => known.startsWith(`${first} `))
  if (group.length > 0) throw new UsageError(`"${first}" is not complete: ${group.join(', ')}`)
  throw new UsageError(`unknown command "${first}".${didYouMean(first, Object.keys(COMMANDS))}`)
}

function parse(name: string, { options, ...command }: Command, args: readonly string[]): Invocation {
  const { values, positionals, tokens } = parseArgs({
    args: [...args],
    options: Object.fromEntries(
      Object.entries(options).map(([option, known]) => [option, { ...known, type: typeOf(known) }]),
    ),
    allowPositionals: true,
    strict: false,
    tokens: true,
  })
  for (const token of tokens) {
    if (token.kind !== 'option') continue
    const known = Object.hasOwn(options, token.name) ? options[token.name] : undefined
    if (known === undefined) {
      const near = didYouMean(token.rawName.replace(/^-+/, ''), [...Object.keys(options), ...GLOBAL_OPTIONS])
      throw new UsageError(`unknown option ${token.rawName}.${near.replace(/"(.*)"/, '--$1')}`)
    }
    if (known.value !== undefined && (token.value === undefined || token.value === '')) {
      throw new UsageError(`${token.rawName} needs a value: ${token.rawName} ${known.value}`)
    }
    if (known.value === undefined && token.value !== undefined) throw new UsageError(`${token.rawName} takes no value`)
  }
  if (positionals.length > command.arguments) {
    const extra = positionals[command.arguments]!
    throw new UsageError(`"${extra}" is one argument too many${name === '' ? '' : ` for ${name}`}`)
  }
  return { values: values as Invocation['values'], positionals }
}

function typeOf({ value }: Option): 'string' | 'boolean' {
  return value === undefined ? 'boolean' : 'string'
}

function report(error: unknown): number {
  if (error instanceof UsageError) {
    console.error(`fluxor-gateway: ${error.message}\nSee: fluxor-gateway --help`)
    return EXIT.usage
  }
  // By name: the class itself would load what only the config step needs.
  if (error instanceof Error && error.name === 'ConfigError') {
    console.error(error.message)
    return EXIT.config
  }
  const expected = error instanceof Error && (error.name === 'CommandError' || 'code' in error)
  console.error(`fluxor-gateway: ${error instanceof Error ? (expected ? error.message : error.stack) : String(error)}`)
  return EXIT.failed
}

/** The command failed for a reason that needs no stack trace. Exit code 1. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
}

export async function version(): Promise<string> {
  return (await import('../version.ts')).VERSION
}

async function help(): Promise<string> {
  const width = Math.max(...Object.keys(COMMANDS).map(({ length }) => length))
  const list = Object.entries(COMMANDS).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`)
  return `Fluxor Gateway ${await version()}: a reverse proxy that keeps the service behind it alive under any load.

Usage:
  fluxor-gateway -c gateway.yaml
  fluxor-gateway --upstream http://127.0.0.1:3000 [--listen :8080] [--admin 127.0.0.1:9901] [--max-ccu 5000]
  fluxor-gateway COMMAND [options]

Commands:
${list.join('\n')}

fluxor-gateway COMMAND --help tells the options of a command. --version prints the version.

Signals of a running gateway: SIGTERM and SIGINT drain and end it, a second one ends it at once; SIGHUP reloads.
Exit codes: 0 ok, 1 failed while running, 64 wrong usage, 78 bad config.`
}

function commandHelp(name: string, command: Command): string {
  const rows = Object.entries(command.options).map(([option, { short, value, describe }]) => {
    const flag = `${short === undefined ? '    ' : `-${short}, `}--${option}${value === undefined ? '' : ` ${value}`}`
    return [flag, describe] as const
  })
  const width = Math.max(0, ...rows.map(([flag]) => flag.length))
  const list = rows.map(([flag, describe]) => `  ${flag.padEnd(width)}  ${describe}`).join('\n')
  return `${command.summary}\n\nUsage: fluxor-gateway ${name} ${command.usage}${list === '' ? '' : `\n\n${list}`}`
}
