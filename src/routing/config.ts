/** `match` of a route: which requests it takes. All conditions given must hold. */

import { z } from 'zod'
import { fieldName, oneOrMore } from '../config/types.ts'
import { literalPath } from '../http/path.ts'

const HOST =
  /^(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?(?::\d{1,5})?$|^\[[0-9a-fA-F:.]+\](?::\d{1,5})?$|^\*$/
const TEMPLATE = /^(?:\/(?:[^/{}?#]*|\{[A-Za-z_][A-Za-z0-9_]*\}|\{[A-Za-z_][A-Za-z0-9_]*\.\.\.\}(?=$)))+$/

const regex = () =>
  z
    .string()
    .min(1)
    .max(1000)
    .refine((source) => isRegex(source), { error: 'expected a regular expression (ECMAScript, unicode)' })

function isRegex(source: string): boolean {
  try {
    new RegExp(source, 'u')
    return true
  } catch {
    return false
  }
}

/** Requests are matched by their normalised path: what the file says gets the same form. */
const literal = (text: z.ZodString) =>
  text
    .refine((path) => literalPath(path) !== undefined, {
      error: 'expected a path without a backslash, "..;" or a lone "%"',
    })
    .transform((path) => literalPath(path) ?? path)

const absolutePath = () =>
  literal(z.string().regex(/^\/[^?#\s]*$/, { error: 'expected a path that starts with "/", without a query' }))

const condition = z.union(
  [
    z.string(),
    z.number().transform(String),
    z.strictObject({
      regex: regex().optional().describe('The whole value must match.'),
      present: z.boolean().optional().describe('`true`: there, whatever its value; `false`: not there.'),
    }),
  ],
  { error: 'expected a value, { regex: … } or { present: true }' },
)

export const matchConfig = z
  .strictObject({
    host: oneOrMore(z.string().regex(HOST, { error: 'expected a host name, such as api.example.com or *.example.com' }))
      .transform((hosts) => hosts.map((host) => host.toLowerCase()))
      .optional()
      .describe('Host names; `*.example.com` takes every name below `example.com`. Without a port any port matches.'),
    path: absolutePath().optional().describe('The whole path. Case-sensitive, after normalisation.'),
    pathPrefix: absolutePath()
      .optional()
      .describe('Whole segments from the start: `/api` takes `/api` and `/api/x`, not `/apix`.'),
    pathTemplate: literal(
      z
        .string()
        .regex(TEMPLATE, { error: 'expected a template such as /users/{id}; {rest...} may end it' })
        .refine((template) => hasDistinctNames(template), { error: 'the same name stands in it twice' }),
    )
      .optional()
      .describe('`/users/{id}`: a name in braces takes one segment, `{rest...}` at the end takes all that follow.'),
    pathRegex: regex()
      .optional()
      .describe('A regular expression that the whole path must match. Tried after all others.'),
    scheme: z
      .enum(['http', 'https'])
      .optional()
      .describe('How the client came: over TLS or not; a trusted proxy says it by X-Forwarded-Proto.'),
    methods: oneOrMore(
      z.string().regex(/^[A-Z][A-Z0-9-]{0,31}$/, { error: 'expected a method in capital letters, such as GET' }),
    )
      .optional()
      .describe('Methods; others are answered 405 when no other route takes the path. GET takes HEAD too.'),
    headers: z.record(fieldName(), condition).optional().describe('Header fields that must be there, by name.'),
    query: z.record(z.string().min(1), condition).optional().describe('Query parameters that must be there, by name.'),
  })
  .refine((match) => pathKinds(match).length <= 1, {
    error: 'takes one of "path", "pathPrefix", "pathTemplate" and "pathRegex"',
  })
export type MatchConfig = z.output<typeof matchConfig>
export type MatchCondition = z.output<typeof condition>

function hasDistinctNames(template: string): boolean {
  const names = template.match(/\{\w+/g) ?? []
  return new Set(names).size === names.length
}

function pathKinds(match: object): string[] {
  return ['path', 'pathPrefix', 'pathTemplate', 'pathRegex'].filter((kind) => kind in match)
}
