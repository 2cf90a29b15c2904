import fc from 'fast-check'
import { expect, it } from 'vitest'
import { createBalancer } from '../../../../src/upstream/balancers/balancer.ts'
import { freeSlots, parseSlotsCap, reportSlots } from '../../../../src/upstream/balancers/slots.ts'
import { endpoint, random } from '../support.ts'

it('reads the cap beside the free places', () => {
  expect(parseSlotsCap('free=3;cap=10')).toBe(10)
  expect(parseSlotsCap('cap=7; free=1')).toBe(7)
  for (const none of ['', 'free=3', 'cap=', 'cap=x', 'nocap=3', 'cap=-1']) expect(parseSlotsCap(none)).toBe(-1)
})

it('what is on its way counts as taken, although the endpoint has not seen it', () => {
  const e = endpoint()
  e.inFlight = 4 // of which the endpoint has seen one
  reportSlots(e, 9, 0, 10, 4)
  expect(freeSlots(e, 1)).toBe(6)
})

it('what others took is not free', () => {
  const e = endpoint()
  e.inFlight = 2
  reportSlots(e, 3, 0, 10, 2)
  expect(freeSlots(e, 1)).toBe(3)
  e.inFlight = 0
  expect(freeSlots(e, 1)).toBe(5)
})

it('a tier alone never sends more than there are places, however late it hears of them', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 6 }),
      fc.integer(),
      (caps, seed) => {
        const draw = random(seed)
        const endpoints = caps.map((_, i) => endpoint(`10.0.0.${i + 1}`))
        for (const [i, e] of endpoints.entries()) reportSlots(e, caps[i]!, 0, caps[i]!, 0)
        const balancer = createBalancer('slots', { random: draw })
        const sum = caps.reduce((a, b) => a + b, 0)
        let inFlight = 0
        for (let step = 0; step < 200; step++) {
          if (inFlight < sum && draw() < 0.7) {
            balancer.pick(endpoints, { hashKey: '' }, 1)!.inFlight++
            inFlight++
          } else {
            const busy = endpoints.filter((e) => e.inFlight > 0)
            if (busy.length === 0) continue
            const e = busy[Math.floor(draw() * busy.length)]!
            const cap = caps[endpoints.indexOf(e)]!
            // The report was made when some of those in flight were still on their way.
            const arrived = 1 + Math.floor(draw() * e.inFlight)
            reportSlots(e, cap - arrived, 1, cap, e.inFlight)
            e.inFlight--
            inFlight--
          }
          for (const [i, e] of endpoints.entries()) expect(e.inFlight).toBeLessThanOrEqual(caps[i]!)
        }
      },
    ),
    { numRuns: 50 },
  )
})
