import { expect, it } from 'vitest'
import { httpDate, statusLine } from '../../../src/http1/status-line.ts'

it.each([
  [100, 'HTTP/1.1 100 Continue\r\n'],
  [200, 'HTTP/1.1 200 OK\r\n'],
  [429, 'HTTP/1.1 429 Too Many Requests\r\n'],
  [299, 'HTTP/1.1 299 \r\n'],
  [599, 'HTTP/1.1 599 \r\n'],
])('status %i', (status, line) => expect(statusLine(status)).toBe(line))

it('the date is an IMF-fixdate, and moves with the second', () => {
  expect(httpDate(784111777_000)).toBe('Sun, 06 Nov 1994 08:49:37 GMT')
  expect(httpDate(784111777_999)).toBe('Sun, 06 Nov 1994 08:49:37 GMT')
  expect(httpDate(784111778_000)).toBe('Sun, 06 Nov 1994 08:49:38 GMT')
  expect(httpDate(784111777_000)).toBe('Sun, 06 Nov 1994 08:49:37 GMT')
})
