import { expect, it } from 'vitest'
import { fieldOf, getField, splitFieldLines, withoutFields } from '../../../src/http/field-lines.ts'

const FIELDS = 'Content-Type: text/plain\r\nVary: a\r\nX-Vary: no\r\nvary:b \r\nEmpty: \r\n'

it('finds a field in any case and joins its lines', () => {
  expect(getField(FIELDS, 'vary')).toBe('a, b')
  expect(getField(FIELDS, 'empty')).toBe('')
  expect(getField(FIELDS, 'age')).toBeUndefined()
  expect(fieldOf(splitFieldLines(FIELDS), 'vary')).toBe('a, b')
})

it('drops lines and keeps the others byte for byte', () => {
  expect(withoutFields(FIELDS, (name) => name === 'vary')).toBe('Content-Type: text/plain\r\nX-Vary: no\r\nEmpty: \r\n')
})
