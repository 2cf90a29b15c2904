import { describe, expect, it } from 'vitest'
import { createLogger, type LoggerOptions } from '../../../src/observability/logger.ts'

function setUp(level: LoggerOptions['level'] = 'info') {
  const lines: string[] = []
  return { lines, log: createLogger({ level, write: (line) => lines.push(line), now: () => 1_700_000_000_000 }) }
}

describe("the gateway's log", () => {
  it('is written in lines of pino, with the name of the level for grep', () => {
    const { lines, log } = setUp()
    log.error('the reload "failed"\n', { file: 'a.yaml', err: new TypeError('no') })
    expect(lines[0]).toMatch(/^\{"level":50,"level_name":"ERROR","time":1700000000000,"pid":\d+,.*\}\n$/)
    expect(JSON.parse(lines[0]!)).toMatchObject({
      level: 50,
      msg: 'the reload "failed"\n',
      file: 'a.yaml',
      err: { type: 'TypeError', message: 'no', stack: expect.stringContaining('TypeError: no') },
    })
  })

  it('leaves out what is below its level', () => {
    const { lines, log } = setUp('warn')
    log.debug('a')
    log.info('b')
    log.warn('c')
    log.fatal('d')
    expect(lines.map((line) => JSON.parse(line).msg)).toEqual(['c', 'd'])
    const silent = setUp('silent')
    silent.log.fatal('x')
    expect(silent.lines).toEqual([])
  })

  it('carries the fields of a child, hides secrets, and survives what is not JSON', () => {
    const { lines, log } = setUp()
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    log.child({ thread: 2 }).info('x', { token: 'abc', nested: { password: 'abc', n: 1n }, circular, gone: undefined })
    expect(lines[0]).not.toContain('abc')
    expect(JSON.parse(lines[0]!)).toMatchObject({
      thread: 2,
      token: '***',
      nested: { password: '***', n: '1' },
      circular: '[unserialisable]',
    })
  })
})
