/**
 * Who sends a request: the gate that comes after the per-IP limits and before those that count per subject. One for each
 * route, over its JWT policies and its API key set. What it learns is left on the exchange: `identity`, header lines for
 * the upstream, and the names of what must not get there.
 */

import type { Exchange, Identity } from '../../exchange.ts'
import { LocalReply } from '../../local-reply.ts'
import type { ApiKey, ApiKeyTable } from './api-keys.ts'
import type { ApiKeysConfig, AuthRouteConfig, IdentityConfig } from './config.ts'
import {
  AMBIGUOUS,
  addToStripList,
  type CredentialSource,
  compileStrip,
  createStripList,
  drop,
  fromCookie,
  fromHeader,
  fromQuery,
  type StripList,
} from './credentials.ts'
import { type Checked, compileJwt, quotable } from './jwt.ts'
import type { KeySets, Verified } from './key-sets.ts'

export type IdentityGate = (x: Exchange) => LocalReply | undefined | Promise<LocalReply | undefined>

export interface CompiledIdentity {
  /** A promise only for a token that was not verified before. Never throws, never rejects. */
  readonly gate: IdentityGate
  /** Lower-case names of headers that this route's gate may set. */
  readonly forwardedNames: readonly string[]
}

/** Undefined when the route asks for no identity. Throws, with a reason for a person, on what cannot work. */
export function compileIdentity(
  route: AuthRouteConfig,
  config: IdentityConfig,
  keySets: KeySets,
): CompiledIdentity | undefined {
  const { jwt: jwtNames, apiKey: apiKeyName, auth: mode } = route
  if (jwtNames === undefined && apiKeyName === undefined) {
    if (mode === 'required') return undefined
    throw new Error(`auth: ${mode} needs jwt or apiKey`)
  }
  const jwt = jwtNames === undefined ? undefined : compileJwt(jwtNames, config, keySets)
  const keys = apiKeyName === undefined ? undefined : compileApiKeys(apiKeyName, config, keySets)

  const stripList = createStripList()
  const claimNames = new Set<string>()
  for (const name of jwtNames ?? []) {
    const policy = config.jwt[name]!
    for (const header of Object.keys(policy.forward)) claimNames.add(header)
    if (policy.strip) for (const from of policy.from) addToStripList(stripList, from)
  }
  if (keys !== undefined) addKeyPlaces(stripList, config.apiKeys[apiKeyName!]!)
  const strip = compileStrip(stripList)
  const keyNames = keys?.table.headerNames ?? new Set<string>()
  for (const name of keyNames) {
    if (claimNames.has(name)) throw new Error(`${name} is set by claims and by API keys of one route`)
  }
  const forwardedNames = [...claimNames, ...keyNames]

  function accept(x: Exchange, token: Verified | undefined, key: ApiKey | undefined): undefined {
    if (token !== undefined) {
      x.identity = key === undefined ? token.identity : merge(token.identity, key.identity)
      x.requestFields += token.fields
    } else if (key !== undefined) x.identity = key.identity
    if (key !== undefined && key.fields !== '') {
      x.requestFields += key.fields
      // Keys may have been read anew since the route's own names were put together.
      for (const name of key.names) drop(x, name)
    }
    strip?.(x)
    return undefined
  }

  /** Both when both are named. With `optional` none is needed, but what is sent must be valid. */
  function demand(required: boolean): IdentityGate {
    return (x) => {
      let token: string | undefined
      if (jwt !== undefined) {
        const found = jwt.read(x)
        if (found === AMBIGUOUS) return jwt.ambiguous
        if (found === undefined && required) return jwt.missing
        token = found
      }
      let key: ApiKey | undefined
      if (keys !== undefined) {
        const found = keys.check(x)
        if (found instanceof LocalReply) return found
        if (found === undefined && required) return keys.missing
        key = found
      }
      if (token === undefined) return accept(x, undefined, key)
      const checked = jwt!.check(token)
      return checked instanceof Promise ? checked.then((late) => settle(x, late, key)) : settle(x, checked, key)
    }
  }

  function settle(x: Exchange, checked: Checked, key: ApiKey | undefined): LocalReply | undefined {
    return checked instanceof LocalReply ? checked : accept(x, checked, key)
  }

  /** One valid credential is enough; a second one that is valid adds to it, one that is not is as if it were not there. */
  function either(): IdentityGate {
    if (jwt === undefined || keys === undefined) return demand(true)
    const nothing = new LocalReply('JWT_MISSING', {
      detail: 'A token or an API key is required',
      fields: jwt.missing.fields + keys.missing.fields,
    })
    return (x) => {
      const token = jwt.read(x)
      const found = keys.check(x)
      const key = found instanceof LocalReply ? undefined : found
      if (typeof token !== 'string') {
        if (key !== undefined) return accept(x, undefined, key)
        return token === AMBIGUOUS ? jwt.ambiguous : found instanceof LocalReply ? found : nothing
      }
      const settleEither = (checked: Checked) => {
        if (!(checked instanceof LocalReply)) return accept(x, checked, key)
        return key === undefined ? checked : accept(x, undefined, key)
      }
      const checked = jwt.check(token)
      return checked instanceof Promise ? checked.then(settleEither) : settleEither(checked)
    }
  }

  return { gate: mode === 'any' ? either() : demand(mode !== 'optional'), forwardedNames }
}

/** The JWT says who; the key says for whom, and its tier is the one that was bought. */
function merge(token: Identity, key: Identity): Identity {
  return { subject: token.subject, claims: token.claims, apiKey: key.apiKey, tier: key.tier ?? token.tier }
}

interface ApiKeyCheck {
  readonly table: ApiKeyTable
  /** Undefined when the request carries no key. */
  check(x: Exchange): ApiKey | LocalReply | undefined
  readonly missing: LocalReply
}

const KEY_SCHEME = /^(?:bearer|apikey) +/i
const DEFAULT_HEADER = 'x-api-key'

function compileApiKeys(name: string, config: IdentityConfig, keySets: KeySets): ApiKeyCheck {
  if (!Object.hasOwn(config.apiKeys, name)) throw new Error(`identity.apiKeys has no ${name}`)
  const set = config.apiKeys[name]!
  const table = keySets.apiKeysFor(set)
  const { clock } = keySets
  const sources = keySources(set)
  const challenge = `ApiKey realm="${quotable(name)}"`
  const fields = `WWW-Authenticate: ${challenge}\r\n`
  const missing = new LocalReply('KEY_MISSING', { fields })
  const unknown = new LocalReply('KEY_UNKNOWN', { fields })
  const ambiguous = new LocalReply('KEY_UNKNOWN', {
    fields,
    reason: 'KEY_AMBIGUOUS',
    detail: 'The request carries more than one key',
  })
  const expired = new LocalReply('KEY_EXPIRED', { fields })
  return {
    table,
    missing,
    check(x) {
      for (let i = 0; i < sources.length; i++) {
        const key = sources[i]!(x)
        if (key === undefined) continue
        if (key === AMBIGUOUS) return ambiguous
        const found = table.find(key)
        if (found === undefined) return unknown
        return found.expiresMs <= clock.wallMs() ? expired : found
      }
      return undefined
    },
  }
}

/** Header, then query, then cookie. */
function keySources(set: ApiKeysConfig): CredentialSource[] {
  const header = headerOf(set)
  const sources: CredentialSource[] = []
  if (header !== undefined) {
    const read = fromHeader(header)
    const withScheme: CredentialSource = (x) => {
      const value = read(x)
      return typeof value === 'string' ? value.replace(KEY_SCHEME, '') : value
    }
    sources.push(header === 'authorization' ? withScheme : read)
  }
  if (set.query !== undefined) sources.push(fromQuery(set.query))
  if (set.cookie !== undefined) sources.push(fromCookie(set.cookie))
  return sources
}

function headerOf({ header, query, cookie }: ApiKeysConfig): string | undefined {
  return header ?? (query === undefined && cookie === undefined ? DEFAULT_HEADER : undefined)
}

function addKeyPlaces(list: StripList, set: ApiKeysConfig): void {
  if (!set.strip) return
  const header = headerOf(set)
  if (header !== undefined) list.headers.add(header)
  if (set.query !== undefined) list.query.add(set.query)
  if (set.cookie !== undefined) list.cookies.add(set.cookie)
}

/**
 * Every header that some claim or key may become, lower case: no client may send one of these on any route. With key
 * sets, those that key files name are among them: ask again after `keySets.reload()` has changed something.
 */
export function allForwardedNames(config: IdentityConfig, keySets?: KeySets): string[] {
  const names = new Set<string>()
  for (const { forward } of Object.values(config.jwt)) for (const name of Object.keys(forward)) names.add(name)
  for (const set of Object.values(config.apiKeys)) {
    for (const { headers } of set.keys) for (const name of Object.keys(headers)) names.add(name)
    if (keySets !== undefined) for (const name of keySets.apiKeysFor(set).headerNames) names.add(name)
  }
  return [...names]
}
