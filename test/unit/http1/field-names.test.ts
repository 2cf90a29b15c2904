import { expect, it } from 'vitest'
import { FIELD_ID, FIELD_NAME, fieldId, findField, nextHash, TOKEN } from '../../../src/http1/field-names.ts'

function find(name: string): number {
  const bytes = Buffer.from(`--${name}--`)
  let hash = 0
  for (const byte of Buffer.from(name)) hash = nextHash(hash, TOKEN[byte]!)
  return findField(bytes, 2, bytes.length - 2, hash)
}

it('every known name is found in every case', () => {
  for (const [name, id] of Object.entries(FIELD_ID)) {
    expect([find(name), find(name.toUpperCase()), fieldId(name), FIELD_NAME[id]], name).toEqual([id, id, id, name])
  }
})

it.each(['hos', 'hostt', 'x-request-i', 'content_length', '__proto__', 'constructor', 'toString', ''])(
  '%j is not known',
  (name) => expect([find(name), fieldId(name)]).toEqual([0, 0]),
)

it('ids fit the tables that are indexed by them', () => {
  expect(Math.max(...Object.values(FIELD_ID))).toBeLessThan(256)
  expect(new Set(Object.values(FIELD_ID)).size).toBe(Object.keys(FIELD_ID).length)
})
