/**
 * Everything of identification that outlives a reload: remote and local keys, API key tables, verified tokens. Found by
 * what they were made from, so that a new snapshot with the same keys goes on where the old one was. One for each thread.
 */

import { createSecretKey } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { extname, resolve } from 'node:path'
import type { JSONWebKeySet, JWTVerifyGetKey } from 'jose'
import type { Identity } from '../../exchange.ts'
import type { LocalReply } from '../../local-reply.ts'
import { ApiKeyTable } from './api-keys.ts'
import type { ApiKeysConfig, IdentityConfig, JwtConfig } from './config.ts'
import { jose } from './jose.ts'
import { type Clock, type KeySetStatus, type KeySource, RemoteKeys } from './jwks.ts'
import { algorithmsOf, parsePublicKeys } from './public-keys.ts'
import { TokenCache } from './token-cache.ts'

export interface KeySetsOptions {
  /** Where relative file names start; the folder of the config file. Default: the working directory. */
  readonly baseDir?: string
  /** Reads YAML (and so JSON). Without it key files are JSON. */
  readonly parseYaml?: (text: string) => unknown
  /** Never fetches: for `check` and `explain`. */
  readonly offline?: boolean
  readonly clock?: Clock
  /** Told about failed fetches (`lastError` set) and changed remote keys. */
  readonly report?: (status: KeySetStatus) => void
}

/** A change of files as `reload()` found it. What could not be read keeps its last good content. */
export interface ReloadResult {
  readonly changed: boolean
  readonly errors: readonly string[]
  /** Takes the API keys back as they were: they do not fit the routes. */
  readonly undo: () => void
}

/** Tokens remembered for each JWT policy, and their bytes. */
const CACHED_TOKENS = 20_000
const CACHED_TOKEN_BYTES = 16 << 20
/** Refusals have their own room: a flood of bad tokens must not push the good ones out. */
const CACHED_REFUSALS = 1000

const SYSTEM_CLOCK: Clock = { monotonicMs: () => performance.now(), wallMs: () => Date.now() }

/** What is known about the tokens of one JWT policy. */
export interface TokenMemory {
  readonly verified: TokenCache<Verified>
  readonly refused: TokenCache<LocalReply>
}

/** A token that passed. */
export interface Verified {
  readonly identity: Identity
  /** Field lines that its claims become. */
  readonly fields: string
}

export interface KeySets {
  readonly clock: Clock
  /** Throws when a file cannot be read, or holds no key for the algorithms. */
  keysFor(config: JwtConfig): KeySource
  tokensFor(config: JwtConfig): TokenMemory
  /** Throws when the file cannot be read. */
  apiKeysFor(config: ApiKeysConfig): ApiKeyTable
  /** Settles when every first fetch has, whatever came of it (within the time-out of a fetch). */
  ready(): Promise<void>
  /** The files to watch: absolute names. */
  files(): string[]
  /** Reads the files again. Throws nothing. */
  reload(): ReloadResult
  /** After a reload of the config: closes and forgets what this identity does not use. */
  retain(identity: IdentityConfig): void
  /** Of the remote sets. */
  status(): KeySetStatus[]
  /** Tokens found verified (or refused), and tokens that had to be verified, of the policies there are. */
  tokenStats(): { hits: number; misses: number }
  close(): void
}

interface FileBacked {
  readonly file: string | undefined
  /** False when the content is the same; what takes the new one back, where that can be. Throws what a person should know. */
  load(): boolean | (() => void)
}

export function createKeySets(options: KeySetsOptions = {}): KeySets {
  const { baseDir = '.', parseYaml = JSON.parse as (text: string) => unknown, offline = false, report } = options
  const clock = options.clock ?? SYSTEM_CLOCK
  const remote = new Map<string, RemoteKeys>()
  const local = new Map<string, KeySource & FileBacked>()
  const apiKeys = new Map<string, { table: ApiKeyTable } & FileBacked>()
  const tokens = new Map<string, TokenMemory>()
  const starting = new Set<Promise<void>>()

  function remoteKeys(config: NonNullable<JwtConfig['jwks']>): RemoteKeys {
    const made = new RemoteKeys(config, { clock, report })
    // With other times for the same address the keys at hand stay good, also while the issuer is down
    for (const [id, other] of remote) if (JSON.parse(id).jwks.url === config.url) made.takeOver(other)
    if (offline) made.close()
    else {
      const started = made.start().finally(() => starting.delete(started))
      starting.add(started)
    }
    return made
  }

  return {
    clock,

    keysFor(config) {
      const id = keyId(config)
      if (config.jwks !== undefined) return getOrMake(remote, id, () => remoteKeys(config.jwks!))
      if (config.secret !== undefined) return getOrMake(local, id, () => new SecretKey(config.secret!))
      return getOrMake(local, id, () => {
        const keys = new PublicKeys(config.publicKey!, config.algorithms, baseDir)
        keys.load()
        return keys
      })
    },

    tokensFor(config) {
      return getOrMake(tokens, JSON.stringify(config), () => ({
        verified: new TokenCache<Verified>(CACHED_TOKENS, CACHED_TOKEN_BYTES),
        refused: new TokenCache<LocalReply>(CACHED_REFUSALS, CACHED_REFUSALS),
      }))
    },

    apiKeysFor(config) {
      return getOrMake(apiKeys, JSON.stringify(config), () => {
        const backed = apiKeyFile(config, baseDir, parseYaml)
        backed.load()
        return backed
      }).table
    },

    async ready() {
      await Promise.all(starting)
    },

    files() {
      const names = [...local.values(), ...apiKeys.values()].map(({ file }) => file)
      return [...new Set(names.filter((name) => name !== undefined))]
    },

    reload() {
      let changed = false
      const errors: string[] = []
      const undo: (() => void)[] = []
      for (const backed of [...local.values(), ...apiKeys.values()]) {
        try {
          const loaded = backed.load()
          if (loaded !== false) changed = true
          if (typeof loaded === 'function') undo.push(loaded)
        } catch (error) {
          errors.push((error as Error).message)
        }
      }
      return { changed, errors, undo: () => undo.forEach((each) => void each()) }
    },

    retain(identity) {
      const jwts = Object.values(identity.jwt)
      const keys = new Set(jwts.map(keyId))
      for (const [id, source] of remote) if (!keys.has(id)) source.close()
      keepOnly(remote, keys)
      keepOnly(local, keys)
      keepOnly(tokens, new Set(jwts.map((config) => JSON.stringify(config))))
      keepOnly(apiKeys, new Set(Object.values(identity.apiKeys).map((config) => JSON.stringify(config))))
    },

    status: () => [...remote.values()].map((source) => source.status()),

    tokenStats() {
      let hits = 0
      let misses = 0
      for (const { verified, refused } of tokens.values()) {
        hits += verified.hits + refused.hits
        misses += verified.misses - refused.hits // what is not among the verified is looked up among the refused
      }
      return { hits, misses }
    },

    close() {
      for (const source of remote.values()) source.close()
    },
  }
}

/** Policies that differ in their rules alone share one set of keys. */
function keyId({ secret, publicKey, jwks, algorithms }: JwtConfig): string {
  return JSON.stringify(publicKey === undefined ? { secret, jwks } : { publicKey, algorithms })
}

function getOrMake<V>(map: Map<string, V>, id: string, make: () => V): V {
  let value = map.get(id)
  if (value === undefined) map.set(id, (value = make()))
  return value
}

function keepOnly(map: Map<string, unknown>, ids: ReadonlySet<string>): void {
  for (const id of map.keys()) if (!ids.has(id)) map.delete(id)
}

/** Keys that are there from the start and until replaced. */
abstract class LocalKeys implements KeySource, FileBacked {
  version = 0
  readonly usableUntilMs = Infinity
  abstract readonly resolve: JWTVerifyGetKey
  abstract readonly file: string | undefined
  abstract load(): boolean
  renew(): undefined {}
  acquire(): undefined {}
  retryAfterSec(): number {
    return 1
  }
}

class SecretKey extends LocalKeys {
  readonly resolve: JWTVerifyGetKey
  readonly file = undefined

  constructor(secret: string) {
    super()
    const key = createSecretKey(Buffer.from(secret)) // an object: jose keeps what it imported by identity
    this.resolve = () => key
  }

  load(): boolean {
    return false
  }
}

class PublicKeys extends LocalKeys {
  readonly file: string | undefined
  readonly #inline: string | undefined
  readonly #algorithms: readonly string[] | undefined
  #text = ''
  resolve!: JWTVerifyGetKey

  constructor(given: string, algorithms: readonly string[] | undefined, baseDir: string) {
    super()
    const inline = given.includes('-----BEGIN') || given.trimStart().startsWith('{')
    this.#inline = inline ? given : undefined
    this.file = inline ? undefined : resolve(baseDir, given)
    this.#algorithms = algorithms
  }

  load(): boolean {
    if (this.#inline !== undefined && this.version > 0) return false
    const where = this.file ?? 'publicKey'
    const text = this.#inline ?? readText(this.file!)
    if (text === this.#text) return false
    let keys: JSONWebKeySet
    try {
      keys = parsePublicKeys(text)
    } catch (error) {
      throw new Error(`${where}: ${(error as Error).message}`)
    }
    const fits = keys.keys.some((key) =>
      algorithmsOf(key).some((name) => this.#algorithms?.includes(name as never) ?? true),
    )
    if (!fits) throw new Error(`${where}: no key fits the algorithms ${this.#algorithms?.join(', ')}`)
    this.resolve = resolver(keys)
    this.#text = text
    this.version++
    return true
  }
}

/** A PEM has no name for its key, but its issuer writes one into tokens: without any `kid` here, theirs is not asked for. */
function resolver(keys: JSONWebKeySet): JWTVerifyGetKey {
  const resolveKey = jose().createLocalJWKSet(keys)
  if (keys.keys.some(({ kid }) => kid !== undefined)) return resolveKey
  return (header) => resolveKey({ ...header, kid: undefined })
}

function apiKeyFile(config: ApiKeysConfig, baseDir: string, parse: (text: string) => unknown) {
  const table = new ApiKeyTable()
  const file = config.file === undefined ? undefined : resolve(baseDir, config.file)
  let last: string | undefined
  return {
    table,
    file,
    load(): false | (() => void) {
      const text = file === undefined ? '' : readText(file)
      if (text === last) return false
      let undo: () => void
      try {
        undo = table.replace([...config.keys, ...(file === undefined ? [] : parseList(text, parse))])
      } catch (error) {
        throw new Error(`${file ?? 'apiKeys'}: ${(error as Error).message}`)
      }
      last = text
      return undo
    },
  }
}

function parseList(text: string, parse: (text: string) => unknown) {
  // The schema brings zod with it: 15 MB that a gateway without key files does not carry.
  const path = `./config${extname(import.meta.url)}`
  const { apiKeyList } = createRequire(import.meta.url)(path) as typeof import('./config.ts')
  const checked = apiKeyList.safeParse(parse(text))
  if (checked.success) return checked.data
  throw new Error(checked.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '))
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new Error(
      `${file}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : (error as Error).message}`,
    )
  }
}
