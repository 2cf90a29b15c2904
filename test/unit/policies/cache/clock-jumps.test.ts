/** The wall clock is set while answers are stored: to and fro, by a little and by much. */

import { expect, it } from 'vitest'
import { Bench } from './harness.ts'

const FRESH = { 'Cache-Control': 'max-age=60' }
const HOUR_SEC = 3600

it('an answer from before a clock was set back is fetched anew, once, and fresh for its own time then', () => {
  const bench = new Bench()
  bench.fetch({}, 200, FRESH, 'before')
  bench.pass(-HOUR_SEC)
  expect(bench.fetch({}, 200, FRESH, 'after').text).toBe('after')
  expect(bench.origin).toHaveLength(2)
  bench.pass(59)
  expect(bench.ask().text).toBe('after')
  expect(bench.origin).toHaveLength(2)
  bench.pass(1)
  bench.ask()
  expect(bench.origin).toHaveLength(3)
})

it('it is given meanwhile where the origin allows a stale one, and then replaced', () => {
  const bench = new Bench()
  const fields = { 'Cache-Control': 'max-age=60, stale-while-revalidate=30' }
  bench.fetch({}, 200, fields, 'before')
  bench.pass(-HOUR_SEC)
  expect(bench.ask().text).toBe('before')
  expect(bench.origin).toHaveLength(2)
  bench.last.reply(200, { Date: bench.date, ...fields }, 'after')
  expect(bench.ask().text).toBe('after')
})

it('a clock that is set forward makes answers stale, no more', () => {
  const bench = new Bench()
  bench.fetch({}, 200, FRESH, 'before')
  bench.pass(HOUR_SEC)
  expect(bench.fetch({}, 200, FRESH, 'after').text).toBe('after')
  bench.pass(1)
  expect([bench.ask().text, bench.origin.length]).toEqual(['after', 2])
})

it('a second to and fro, as clocks of a fleet differ, costs nothing', () => {
  const bench = new Bench()
  bench.fetch({}, 200, FRESH)
  for (const seconds of [-1, 2, -3, 1]) {
    bench.pass(seconds)
    expect(bench.ask().get('age')).toMatch(/^\d+$/)
  }
  expect(bench.origin).toHaveLength(1)
})

it('what was purged softly is not fresh again by it', () => {
  const bench = new Bench()
  bench.fetch({}, 200, { 'Cache-Control': 'max-age=600' }, 'before')
  bench.pass(300)
  bench.cache.purge({ urls: ['http://example.com/', 'example.com/', '/'], prefixes: ['/'], soft: true })
  bench.pass(-200)
  bench.ask()
  expect(bench.origin).toHaveLength(2)
})
