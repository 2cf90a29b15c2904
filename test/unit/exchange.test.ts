/** An exchange ends exactly once, and what was taken for it is given back exactly once, whatever happens. */

import { describe, expect, it } from 'vitest'
import type { Outcome } from '../../src/exchange.ts'
import { makeExchange } from '../support/exchanges.ts'

const exchange = () => makeExchange('GET / HTTP/1.1')

describe('the end of an exchange', () => {
  it('runs every hook once, the last taken first', () => {
    const x = exchange()
    const ran: string[] = []
    for (const name of ['a', 'b', 'c']) x.onFinish((outcome, own) => ran.push(`${name} ${outcome} ${own === x}`))
    expect(x.finished).toBe(false)
    x.finish('completed')
    x.finish('aborted')
    expect(x.finished).toBe(true)
    expect(ran).toEqual(['c completed true', 'b completed true', 'a completed true'])
  })

  it('a hook that comes after the end runs at once: nothing taken late is kept', () => {
    const x = exchange()
    const outcomes: Outcome[] = []
    x.finish('aborted')
    x.onFinish((outcome) => outcomes.push(outcome))
    expect(outcomes).toEqual(['aborted'])
  })

  it('a hook may add another', () => {
    const x = exchange()
    const ran: string[] = []
    x.onFinish(() => {
      ran.push('first')
      x.onFinish((outcome) => ran.push(outcome))
    })
    x.finish('completed')
    expect(ran).toEqual(['first', 'completed'])
  })

  it('a hook that throws keeps no other from running; its error comes out', () => {
    const x = exchange()
    const ran: string[] = []
    x.onFinish(() => ran.push('place'))
    x.onFinish(() => {
      throw new Error('first')
    })
    x.onFinish(() => {
      throw undefined
    })
    x.onFinish(() => ran.push('connection'))
    expect(() => x.finish('completed')).toThrow()
    expect(ran).toEqual(['connection', 'place'])
    x.finish('completed')
    expect(ran).toHaveLength(2)
  })

  it('without hooks is nothing', () => {
    const x = exchange()
    x.finish('completed')
    expect(x.finished).toBe(true)
  })
})

describe('a client that leaves', () => {
  it('stops what waits, once, the newest', () => {
    const x = exchange()
    const stopped: string[] = []
    x.onAbort = () => stopped.push('queue')
    x.onAbort = () => stopped.push('upstream')
    x.abort()
    x.abort()
    expect(stopped).toEqual(['upstream'])
  })

  it('stops nothing that is over', () => {
    const x = exchange()
    const stopped: string[] = []
    x.onAbort = () => stopped.push('queue')
    x.onAbort = null
    x.abort()
    x.onAbort = () => stopped.push('upstream')
    x.finish('completed')
    x.abort()
    expect(stopped).toEqual([])
  })
})
