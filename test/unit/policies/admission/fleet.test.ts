/**
 * Gateways that share one cap, on a virtual clock with random faults: the real script in a real Redis, which takes the time
 * from the test. Gateways are what `FleetLease` makes of them, with clients that come and go.
 */

import { Redis } from 'ioredis'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { FLEET_SCRIPT, FleetLease, type FleetSettings, fleetTickMs } from '../../../../src/policies/admission/fleet.ts'
import { startRedis, type TestRedis } from '../../../support/redis.ts'
import { services } from '../../../support/services.ts'

const CAP = 90
const TTL_MS = 3000
const TICK_MS = fleetTickMs(TTL_MS)
const SETTINGS: FleetSettings = {
  maxCCU: CAP,
  ownMaxCCU: 60,
  leaseTtlMs: TTL_MS,
  onPartition: 'floor',
  floor: undefined,
}

let server: TestRedis
let redis: Redis
let key = 0
beforeAll(async () => {
  if (services.redis === undefined) return
  server = await startRedis()
  redis = new Redis(server.url)
})
beforeEach(() => {
  key++
})
afterAll(async () => {
  redis?.disconnect()
  await server?.close()
})

/** mulberry32 */
function random(seed: number): () => number {
  let a = seed
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

/** One gateway: its lease, who is inside, and who would like to be. */
class Member {
  readonly lease: FleetLease
  ccu = 0
  demand = 0
  refused = 0
  state: 'up' | 'dead' | 'frozen' | 'cut' = 'up'
  askedMs = Number.NEGATIVE_INFINITY

  constructor(name: string, settings: FleetSettings = SETTINGS) {
    this.lease = new FleetLease(name, settings)
  }

  /** Clients leave (a share of them), and others come as long as the lease lets them. */
  traffic(nowMs: number, leaving: number): void {
    if (this.state === 'dead' || this.state === 'frozen') return
    this.ccu -= Math.floor(this.ccu * leaving)
    while (this.ccu > this.demand) this.ccu--
    const cap = this.lease.capAt(nowMs)
    while (this.ccu < this.demand && this.ccu < cap) this.ccu++
    if (this.ccu < this.demand) this.refused += this.demand - this.ccu
  }

  /** Asks, and gets the answer perhaps later: returns what delivers it. */
  async ask(nowMs: number): Promise<() => void> {
    this.askedMs = nowMs
    const question = this.lease.ask(nowMs, { ccu: this.ccu, refused: this.refused })
    this.refused = 0
    const args = [...question.args.slice(0, -1), nowMs]
    const reply = (await redis.eval(FLEET_SCRIPT, 1, `fleet-test:${key}`, ...args)) as number[]
    return () => this.lease.answered(question, reply)
  }
}

const sum = (members: Member[]) => members.reduce((total, { ccu }) => total + ccu, 0)

/** Runs the fleet for a while, a step of 50 ms at a time. */
async function run(
  members: Member[],
  fromMs: number,
  ms: number,
  each: (nowMs: number) => void = () => {},
  rnd: () => number = () => 1,
): Promise<number> {
  const late: (() => void)[] = []
  for (let nowMs = fromMs; nowMs < fromMs + ms; nowMs += 50) {
    for (const deliver of late.splice(0)) deliver()
    for (const member of members) {
      member.traffic(nowMs, 0.1)
      const due = nowMs - member.askedMs >= (member.refused > 0 ? 50 : TICK_MS)
      if (member.state !== 'up' || !due) continue
      const deliver = await member.ask(nowMs)
      // Some answers come a step later, when the gateway has let others in already.
      if (rnd() < 0.3) late.push(deliver)
      else deliver()
    }
    each(nowMs)
  }
  for (const deliver of late) deliver()
  return fromMs + ms
}

/** Three that have been together for long enough. */
async function settled(): Promise<{ members: Member[]; nowMs: number }> {
  const members = ['a', 'b', 'c'].map((name) => new Member(name))
  const nowMs = await run(members, 1000, TTL_MS + 1000)
  return { members, nowMs }
}

describe.skipIf(services.redis === undefined)('a fleet of three with a cap of ninety', () => {
  it('under skewed load uses at least 95 % of the cap and never more than all of it', async () => {
    const { members, nowMs } = await settled()
    members[0]!.demand = 500
    members[1]!.demand = 500
    let least = CAP
    await run(members, nowMs, 1000, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
    await run(members, nowMs + 1000, 5000, () => {
      least = Math.min(least, sum(members))
      expect(sum(members)).toBeLessThanOrEqual(CAP)
    })
    expect(least).toBeGreaterThanOrEqual(CAP * 0.95)
    // The skew turns: the share follows.
    members[0]!.demand = 0
    members[2]!.demand = 500
    await run(members, nowMs + 6000, 4000, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
    expect(members[1]!.ccu + members[2]!.ccu).toBeGreaterThanOrEqual(CAP * 0.95)
  })

  it('one that dies: its share is back within leaseTtl and a tick', async () => {
    const { members, nowMs } = await settled()
    for (const member of members) member.demand = 500
    let at = await run(members, nowMs, 3000)
    members[2]!.state = 'dead'
    members[2]!.ccu = 0
    at = await run(members, at, TTL_MS + TICK_MS + 100, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
    expect(members[0]!.lease.share! + members[1]!.lease.share!).toBeGreaterThanOrEqual(CAP * 0.95)
  })

  it('one that was frozen lets nobody in by its old lease when it thaws', async () => {
    const { members, nowMs } = await settled()
    for (const member of members) member.demand = 500
    let at = await run(members, nowMs, 3000)
    const frozen = members[0]!
    const before = frozen.lease.share!
    frozen.state = 'frozen'
    at = await run(members, at, TTL_MS * 2)
    expect(frozen.lease.capAt(at)).toBeLessThanOrEqual(frozen.lease.floor)
    // The stated bound: the cap, and what the frozen one had in flight.
    expect(sum(members)).toBeLessThanOrEqual(CAP + before)
    frozen.state = 'up'
    at = await run(members, at, 5000)
    await run(members, at, 2000, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
  })

  it('all without Redis: the floors hold, and add up to the cap', async () => {
    const { members, nowMs } = await settled()
    for (const member of members) member.demand = 500
    let at = await run(members, nowMs, 2000)
    for (const member of members) member.state = 'cut'
    at = await run(members, at, TTL_MS * 2, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
    await run(members, at, 2000)
    expect(members.map(({ ccu }) => ccu)).toEqual([30, 30, 30])
  })

  it('all without Redis while one has most of it: the cap holds while the shares become even', async () => {
    const { members, nowMs } = await settled()
    members[0]!.demand = 500
    let at = await run(members, nowMs, 4000)
    expect(members[0]!.ccu).toBe(60)
    // The last answers are half a second apart.
    members[1]!.state = 'cut'
    at = await run(members, at, 450)
    for (const member of members) {
      member.state = 'cut'
      member.demand = 500
    }
    at = await run(members, at, TTL_MS * 3, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
    expect(members.map(({ ccu }) => ccu)).toEqual([30, 30, 30])
  })

  it('Redis loses its data: nobody grows for a leaseTtl, and the cap holds', async () => {
    const { members, nowMs } = await settled()
    members[0]!.demand = 500
    members[1]!.demand = 30
    let at = await run(members, nowMs, 3000)
    await redis.del(`fleet-test:${key}`)
    for (const member of members) member.demand = 500
    at = await run(members, at, TTL_MS + 500, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
    await run(members, at, 3000, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
    expect(sum(members)).toBeGreaterThanOrEqual(CAP * 0.95)
  })

  it('Redis comes back without its data after an outage: who comes first takes no more than it has', async () => {
    const { members, nowMs } = await settled()
    for (const member of members) member.demand = 500
    let at = await run(members, nowMs, 2000)
    for (const member of members) member.state = 'cut'
    at = await run(members, at, TTL_MS * 2)
    await redis.del(`fleet-test:${key}`)
    members[0]!.state = 'up'
    at = await run(members, at, TTL_MS - 500, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
    for (const member of members) member.state = 'up'
    await run(members, at, TTL_MS * 2, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
  })

  it('one that comes to a full fleet gets its part of it, and has nothing before', async () => {
    const { members, nowMs } = await settled()
    for (const member of members) member.demand = 500
    let at = await run(members, nowMs, 2000)
    const fourth = new Member('d')
    fourth.demand = 500
    expect(fourth.lease.capAt(at)).toBe(0)
    members.push(fourth)
    at = await run(members, at, 3000, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
    expect(fourth.ccu).toBeGreaterThanOrEqual(18)
  })

  it('one that leaves in an orderly way gives its share back at once', async () => {
    const { members, nowMs } = await settled()
    for (const member of members) member.demand = 500
    const at = await run(members, nowMs, 2000)
    members[2]!.ccu = 0
    members[2]!.state = 'dead'
    const leaving = members[2]!.lease.leaving()
    await redis.eval(FLEET_SCRIPT, 1, `fleet-test:${key}`, ...leaving.slice(0, -1), at)
    await run(members, at, 1000)
    expect(sum(members)).toBeGreaterThanOrEqual(CAP * 0.95)
  })

  it.each([1, 2, 3, 4, 5, 6])('random faults, seed %i: never more than the stated bound', async (seed) => {
    const rnd = random(seed)
    const { members, nowMs } = await settled()
    let at = nowMs
    let beginners = { places: 0, untilMs: 0 }
    for (let phase = 0; phase < 12; phase++) {
      let born = 0
      for (const member of members) {
        member.demand = rnd() < 0.3 ? 0 : Math.floor(rnd() * 120)
        const fault = rnd()
        if (member.state !== 'up') {
          if (member.state === 'dead') {
            // A new process: it knows nothing and has nobody.
            const next = new Member(`${member.lease.id}+`)
            next.demand = member.demand
            members[members.indexOf(member)] = next
            born += next.lease.floor
          } else member.state = 'up'
        } else if (fault < 0.12) {
          member.state = 'dead'
          member.ccu = 0
        } else if (fault < 0.22) member.state = 'frozen'
        else if (fault < 0.32) member.state = 'cut'
      }
      if (rnd() < 0.15) {
        await redis.del(`fleet-test:${key}`)
        // Who starts while Redis knows nobody begins with a floor.
        beginners = { places: born, untilMs: at + 2 * TTL_MS }
      }
      at = await run(
        members,
        at,
        Math.floor(rnd() * 100) * 50,
        (now) => {
          let bound = CAP + (now < beginners.untilMs ? beginners.places : 0)
          for (const member of members) {
            // Beyond its lease a frozen one still has whom it had, one cut off may have its floor, and both until they are well.
            const silent = now - member.askedMs >= TTL_MS * 0.9
            if (silent && member.state !== 'dead') bound += member.ccu
          }
          // Who has just come back is known to Redis with what it has; the others give way as their requests end.
          const debt = debtOf(members, now)
          expect(sum(members)).toBeLessThanOrEqual(bound + debt)
        },
        rnd,
      )
    }
    for (const member of members) member.state = 'up'
    at = await run(members, at, 6000)
    await run(members, at, 2000, () => expect(sum(members)).toBeLessThanOrEqual(CAP))
  })
})

/** What those who were silent brought back (what they had, or let in up to their floor), until it has run off. */
const debts = new WeakMap<Member, { ccu: number; seenMs: number; silent: boolean }>()
function debtOf(members: Member[], nowMs: number): number {
  let debt = 0
  for (const member of members) {
    const known = debts.get(member) ?? { ccu: 0, seenMs: 0, silent: false }
    const silent = nowMs - member.askedMs >= TTL_MS * 0.9
    if (silent) Object.assign(known, { silent: true, ccu: Math.max(member.ccu, member.lease.floor), seenMs: nowMs })
    else if (known.silent && nowMs - known.seenMs < 3000) debt += Math.min(known.ccu, member.ccu)
    else known.silent = false
    debts.set(member, known)
  }
  return debt
}
