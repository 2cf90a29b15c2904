import { describe, expect, it } from 'vitest'
import { formatSlo, formatValue, judge, parseSlos, type Slo } from '../../../src/loadtest/slo.ts'

const slos = (text: string) => parseSlos(text) as Slo[]

describe('objectives', () => {
  it.each([
    ['p95<200ms', 'p95', '<', 200, 'ms'],
    ['p99.9<=1.5s', 'p99.9', '<=', 1500, 'ms'],
    ['mean < 800us', 'mean', '<', 0.8, 'ms'],
    ['avg<1s', 'mean', '<', 1000, 'ms'],
    ['max<2s', 'max', '<', 2000, 'ms'],
    ['refused.p99<5ms', 'refused.p99', '<', 5, 'ms'],
    ['errors<0.1%', 'errors', '<', 0.001, 'share'],
    ['errors<0.001', 'errors', '<', 0.001, 'share'],
    ['shed<=20%', 'shed', '<=', 0.2, 'share'],
    ['limited<1%', 'limited', '<', 0.01, 'share'],
    ['rps>=1000', 'rps', '>=', 1000, 'perSecond'],
    ['rps>500/s', 'rps', '>', 500, 'perSecond'],
  ])('reads %s', (text, metric, operator, limit, unit) => {
    expect(slos(text)).toEqual([expect.objectContaining({ metric, operator, unit })])
    expect(slos(text)[0]!.limit).toBeCloseTo(limit, 9)
  })

  it('reads several, with commas or semicolons and spaces', () => {
    expect(slos(' p95 < 200ms , errors<0.1%; rps>10 ').map(({ text }) => text)).toEqual([
      'p95<200ms',
      'errors<0.1%',
      'rps>10',
    ])
  })

  it.each([
    ['p95<200', /needs a time with its unit, such as p95<200ms/],
    ['p95=200ms', /cannot read the objective/],
    ['p95', /cannot read the objective/],
    ['errors<5ms', /needs a share/],
    ['errors<5', /did you mean 5%/],
    ['rps>5ms', /needs a rate/],
    ['p101<5ms', /unknown metric 'p101'/],
    ['latency<5ms', /unknown metric 'latency'.*known are p50/],
    ['', /no objective/],
    [' , ', /no objective/],
  ])('says what is wrong with "%s"', (text, message) => {
    expect(parseSlos(text)).toMatch(message)
  })

  it('are met, or missed by the value that was measured', () => {
    const verdicts = judge(
      slos('p95<200ms,errors<0.1%,rps>=100'),
      (metric) => ({ p95: 200, errors: 0, rps: 100 })[metric]!,
    )
    expect(verdicts.map(({ passed }) => passed)).toEqual([false, true, true])
    expect(verdicts[0]!.value).toBe(200)
  })

  it('are not met when there is nothing to measure', () => {
    expect(judge(slos('p95<200ms'), () => Number.NaN)[0]!.passed).toBe(false)
    expect(formatValue('ms', Number.NaN)).toBe('nothing to measure')
  })

  it('are written for people', () => {
    expect(slos('p95<200ms,errors<0.1%,rps>=1000').map(formatSlo)).toEqual([
      'p95 < 200 ms',
      'errors < 0.1 %',
      'rps >= 1000/s',
    ])
    expect([formatValue('ms', 12.34), formatValue('share', 0.0213), formatValue('perSecond', 12_345)]).toEqual([
      '12.3 ms',
      '2.1 %',
      '12 345/s',
    ])
  })
})
