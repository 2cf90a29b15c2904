/**
 * One cap for all gateways of a name: each leases a share of `fleet.maxCCU` from Redis. Pure: questions and answers, no
 * connection and no clock of its own. No request ever waits for Redis: a gateway asks some times a second how much it may
 * have, and admits on its own within that.
 *
 * What holds. Redis keeps, per gateway, the most places it may be using, and until when (on Redis' own clock). One script
 * reads all, decides and writes, so the sum of what is granted never passes the cap:
 *  - a lease grows only into what no living record holds;
 *  - it shrinks in two steps: the gateway is told its new share and admits no more above it; its record falls only with what
 *    it then still has in flight. So nothing is given to another that is still in use here;
 *  - a gateway's own deadline is counted from before it asked, less a tenth, on the monotonic clock: it stops admitting by the
 *    lease before Redis gives the lease away, also after it was frozen (SIGSTOP, a paused machine) and thawed;
 *  - a hash that is new (Redis lost its data, or the first start) is quarantined for one leaseTtl: records are taken, nobody
 *    grows beyond its floor. After that everybody who lives is in it, and everybody else has fallen to the floor;
 *  - a gateway asks before it listens, and has nothing until it is answered or Redis was waited for in vain.
 *
 * The bounds:
 *  - in quiet times, under any load and skew: at most `maxCCU` in flight over the fleet;
 *  - a gateway dies: its share is given away within leaseTtl and one tick. What it had in flight is cut with it;
 *  - a gateway is frozen, or alone without Redis, for longer than leaseTtl: its share is given away; until it notices (thaws)
 *    what it had in flight is still at the upstreams, and without Redis it admits up to its floor. At most `maxCCU`, plus the
 *    in-flight of the frozen, plus the floor of the cut off. `floor: 0` makes that exact and the cut off gateway refuse all;
 *  - Redis loses its data while a new gateway starts: that one may have its floor before all others are known again;
 *  - all are without Redis: when the leases have run out who has more than its floor falls to it, and a leaseTtl later who has
 *    less grows to it. At most the sum of the floors, which `auto` makes `maxCCU` or less, and what others still have
 *    running beyond theirs (requests that take longer than that leaseTtl);
 *  - Redis fails over to a replica that lacks the last writes: growth that was lost is unknown until its gateway's next
 *    tick; at most that much more, for one tick. Clocks of Redis machines that differ shorten or lengthen one lease by the difference.
 */

export interface FleetSettings {
  readonly maxCCU: number
  /** `admission.maxCCU`: never more than that, whatever the fleet has. */
  readonly ownMaxCCU: number
  readonly leaseTtlMs: number
  readonly onPartition: 'floor' | 'keep'
  /** Places without Redis; undefined: `maxCCU` over the gateways last seen. */
  readonly floor: number | undefined
}

/** How the gateway stands, at the moment of asking. */
export interface FleetUsage {
  readonly ccu: number
  /** Refused for want of places since the last question. */
  readonly refused: number
}

export interface FleetQuestion {
  readonly args: (string | number)[]
  readonly sentMs: number
}

/** Between two questions when nothing presses. */
export function fleetTickMs(leaseTtlMs: number): number {
  return Math.min(500, Math.max(50, leaseTtlMs / 6))
}

/** Of its life a lease is used for this part. */
const SAFE = 0.9

/**
 * KEYS[1] a hash. ARGV: id, held, want, cap, own cap, ttl, floor, now ('' but in tests; milliseconds). `held` < 0: leaves.
 * Answers: the share to admit by, how many gateways there are, and 1 while the hash is so new that there may be more.
 */
export const FLEET_SCRIPT = `
local key, id = KEYS[1], ARGV[1]
local held, want, cap, own, ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local floor, now = tonumber(ARGV[7]), tonumber(ARGV[8])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
if held < 0 then
  redis.call('HDEL', key, id)
  return {0, 0}
end
local fields = redis.call('HGETALL', key)
local born, others, wants, n = nil, 0, {}, 1
for i = 1, #fields, 2 do
  local name = fields[i]
  if name == 'born' then
    born = tonumber(fields[i + 1])
  elseif name ~= id then
    local lease, wish, own_cap, deadline = string.match(fields[i + 1], '^(%d+) (%d+) (%d+) (%d+)$')
    if deadline and tonumber(deadline) > now then
      n = n + 1
      others = others + tonumber(lease)
      wants[n] = math.min(tonumber(wish), tonumber(own_cap))
    else
      redis.call('HDEL', key, name)
    end
  end
end
if not born or born > now then
  born = now
  redis.call('HSET', key, 'born', string.format('%.0f', now))
end
want = math.min(want, own)
wants[1] = want
-- Everybody gets what he wants, or all who want more the same; what is left over is spread for what comes next.
table.sort(wants)
local left, level = cap, 0
for i = 1, n do
  local each = math.floor(left / (n - i + 1))
  if wants[i] > each then
    level = each
    left = 0
    break
  end
  level = wants[i]
  left = left - wants[i]
end
local target = math.min(own, math.min(want, level) + math.floor(left / n))
local share = target
if target > held then
  share = math.min(target, cap - others)
  if now < born + ttl then share = math.min(share, math.max(held, floor)) end
end
-- Others may hold more than was left to them (data was lost): what is above the cap must go.
if share > cap - others then share = math.max(0, cap - others) end
redis.call('HSET', key, id, string.format('%.0f %.0f %.0f %.0f', math.max(share, held), want, own, now + ttl))
redis.call('PEXPIRE', key, math.max(60000, ttl * 10))
return {share, n, now < born + ttl and 1 or 0}
`

export class FleetLease {
  readonly id: string
  settings: FleetSettings
  /** Places that Redis has given; admitted by until `untilMs`. */
  #share: number | undefined
  #untilMs = Number.NEGATIVE_INFINITY
  #instances = 0
  #peak = 0
  #waiting = true

  constructor(id: string, settings: FleetSettings) {
    this.id = id
    this.settings = settings
  }

  /** Gateways last seen; 0: none yet. */
  get instances(): number {
    return this.#instances
  }

  get share(): number | undefined {
    return this.#share
  }

  /** Until when `share` holds; after that the floor does. */
  get untilMs(): number {
    return this.settings.onPartition === 'keep' && this.#share !== undefined ? Number.POSITIVE_INFINITY : this.#untilMs
  }

  /** Places without Redis. Who has seen nobody yet takes the fleet for as large as full gateways would make it. */
  get floor(): number {
    const { maxCCU, ownMaxCCU, floor } = this.settings
    const instances = this.#instances || Math.ceil(maxCCU / ownMaxCCU)
    return Math.min(ownMaxCCU, floor ?? Math.floor(maxCCU / instances))
  }

  /** Redis was waited for in vain: the floor holds until it answers. */
  giveUp(): void {
    this.#waiting = false
  }

  capAt(nowMs: number): number {
    if (this.#waiting) return 0
    const { ownMaxCCU, leaseTtlMs } = this.settings
    const { floor, untilMs } = this
    if (nowMs < untilMs) return Math.min(this.#share!, ownMaxCCU)
    // Others may have been answered a little later: who has less than the floor grows only when their leases are over too.
    return this.#share !== undefined && nowMs < untilMs + leaseTtlMs ? Math.min(this.#share, floor) : floor
  }

  /** What to ask now, with `FLEET_SCRIPT`. */
  ask(nowMs: number, { ccu, refused }: FleetUsage): FleetQuestion {
    const { maxCCU, ownMaxCCU, leaseTtlMs } = this.settings
    // Until the answer comes, that many may be let in.
    const held = Math.max(ccu, this.capAt(nowMs))
    // The need of late, with room for what comes before the next question.
    this.#peak = Math.max(Math.min(ownMaxCCU, ccu + refused), this.#peak * 0.5)
    const want = Math.min(ownMaxCCU, Math.ceil(this.#peak * 1.2) + 1)
    // Only who has never been answered may begin with a floor while a new hash fills: the others bring what they hold.
    const newcomer = this.#share === undefined ? this.floor : 0
    return { args: [this.id, held, want, maxCCU, ownMaxCCU, leaseTtlMs, newcomer, ''], sentMs: nowMs }
  }

  /** @param reply of the script */
  answered(question: FleetQuestion, [share, instances, filling]: readonly number[]): void {
    const untilMs = question.sentMs + this.settings.leaseTtlMs * SAFE
    this.#waiting = false
    if (untilMs < this.#untilMs) return // an older answer than the one that counts
    this.#share = share!
    this.#untilMs = untilMs
    this.#instances = filling === 1 ? Math.max(this.#instances, instances!) : instances!
  }

  /** What to tell Redis at the end. */
  leaving(): (string | number)[] {
    const { maxCCU, ownMaxCCU, leaseTtlMs } = this.settings
    return [this.id, -1, 0, maxCCU, ownMaxCCU, leaseTtlMs, 0, '']
  }
}
