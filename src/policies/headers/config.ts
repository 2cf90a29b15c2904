/** Keys of a route's `headers` and `securityHeaders`. */

import { z } from 'zod'
import { duration, fieldName, fieldValue, oneOrMore } from '../../config/types.ts'
import { isReservedField } from '../../http/reserved-fields.ts'

const editableName = () =>
  fieldName().refine((name) => !isReservedField(name), { error: 'a framing or hop-by-hop header cannot be changed' })

const editConfig = z
  .strictObject({
    set: z.record(editableName(), fieldValue()).default({}).describe('Replaces the header, or creates it.'),
    add: z
      .record(editableName(), oneOrMore(fieldValue()))
      .default({})
      .describe('Adds a line, or several, beside those that are there.'),
    remove: z.array(editableName()).default([]).describe('Removes the header.'),
  })
  .superRefine((edit, context) => {
    for (const name of edit.remove) {
      if (Object.hasOwn(edit.set, name)) {
        context.addIssue({ code: 'custom', message: `${name} is both set and removed`, path: ['set', name] })
      }
    }
  })

export const headersConfig = z.strictObject({
  request: editConfig.prefault({}).describe('Changes to what goes upstream.'),
  response: editConfig.prefault({}).describe('Changes to what goes to the client.'),
})
export type HeadersConfig = z.output<typeof headersConfig>

const valueOrOff = () => z.union([z.literal(false), fieldValue().min(1)])

const presetConfig = z.strictObject({
  contentTypeOptions: z.boolean().default(true).describe('X-Content-Type-Options: nosniff.'),
  frameOptions: z
    .union([z.literal(false), z.enum(['DENY', 'SAMEORIGIN'])])
    .default('DENY')
    .describe('X-Frame-Options.'),
  referrerPolicy: valueOrOff().default('strict-origin-when-cross-origin').describe('Referrer-Policy.'),
  hsts: z
    .union([
      z.literal(false),
      z.strictObject({
        maxAge: duration().prefault('365d').describe('How long browsers insist on https.'),
        includeSubDomains: z.boolean().default(true).describe('Also for every subdomain.'),
        preload: z.boolean().default(false).describe('Consent to the preload lists of browsers; hard to take back.'),
      }),
    ])
    .prefault({})
    .describe('Strict-Transport-Security (RFC 6797); sent on TLS listeners only.'),
  contentSecurityPolicy: valueOrOff()
    .default(false)
    .describe('Content-Security-Policy; there is no value that fits all.'),
  crossOriginOpenerPolicy: valueOrOff().default('same-origin').describe('Cross-Origin-Opener-Policy.'),
  crossOriginResourcePolicy: valueOrOff().default(false).describe('Cross-Origin-Resource-Policy.'),
  permissionsPolicy: valueOrOff().default(false).describe('Permissions-Policy.'),
  crossDomainPolicies: z.boolean().default(true).describe('X-Permitted-Cross-Domain-Policies: none.'),
})

/** `true` is the preset as it stands, `false` is off, an object changes single values. */
export const securityHeadersConfig = z
  .union([z.boolean(), presetConfig])
  .transform((value) => (value === true ? presetConfig.parse({}) : value))
export type SecurityHeadersConfig = z.output<typeof securityHeadersConfig>
