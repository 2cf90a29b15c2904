/**
 * The algorithms as Lua for Redis: the arithmetic of algorithms.ts on Redis' own clock (`TIME`), so that all gateways
 * of a fleet count on one. Each touches one key (a cluster needs no more) and runs atomically.
 *
 * KEYS[1] the state. ARGV: take | give, limit, window in ms, cost, burst. The reply: { allowed, remaining, resetMs, retryAfterMs }.
 * A key of another type, or with something else inside, is an error of Redis: the rule's onStoreError then decides.
 */

const HEAD = `
local key, give = KEYS[1], ARGV[1] == 'give'
local limit, window, cost, burst = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local function reply(allowed, remaining, reset, retry)
  return { allowed and 1 or 0, math.max(0, math.floor(remaining)), math.max(0, math.ceil(reset)), math.max(0, math.ceil(retry)) }
end
local function expire(ms) redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(ms) + 1)) end
`

const CLOCK = `
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000
`

const GCRA = `${HEAD}${CLOCK}
local state = redis.call('HMGET', key, 't', 'd')
if give and not state[1] then return reply(true, burst, 0, 0) end
local at, debt, interval = tonumber(state[1] or now), tonumber(state[2] or 0), window / limit
if now >= at then
  debt = math.max(0, debt - (now - at) / interval)
  at = now
elseif now < at - 1000 then
  at = now
end
if debt > burst then debt = burst end
local allowed, retry = true, 0
if give then
  debt = math.max(0, debt - cost)
else
  allowed = debt + cost <= burst + 1e-6
  if allowed then debt = debt + cost else retry = (debt + cost - burst) * interval + at - now end
end
redis.call('HSET', key, 't', string.format('%.3f', at), 'd', string.format('%.9f', debt))
expire(debt * interval + at - now)
return reply(allowed, burst - debt + 1e-6, debt * interval, retry)
`

const SLIDING_WINDOW = `${HEAD}${CLOCK}
local state = redis.call('HMGET', key, 's', 'c', 'p')
if give and not state[1] then return reply(true, limit, 0, 0) end
local start, current, previous = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[3] or 0)
local aligned = math.floor(now / window) * window
if aligned > start then
  previous = aligned - start < window * 1.5 and current or 0
  current = 0
  start = aligned
elseif aligned < start then
  if now < start - 1000 then start = aligned else now = start end
end
local elapsed = now - start
local weighted = previous * (1 - elapsed / window)
local allowed, retry = true, 0
if give then
  current = math.max(0, current - cost)
else
  allowed = weighted + current + cost <= limit + 1e-9
  if allowed then
    current = current + cost
  elseif current + cost <= limit then
    retry = (1 - (limit - cost - current) / previous) * window - elapsed
  else
    retry = window - elapsed + (1 - (limit - cost) / current) * window
  end
end
redis.call('HSET', key, 's', string.format('%.3f', start), 'c', current, 'p', previous)
expire(start + 2 * window - now)
local reset = current > 0 and start + 2 * window - now or previous > 0 and window - elapsed or 0
return reply(allowed, limit - weighted - current + 1e-9, reset, retry)
`

/** The same key as rate-limiter-flexible's: a number whose time to live is the rest of its window. */
const FIXED_WINDOW = `${HEAD}
local count = tonumber(redis.call('GET', key) or 0)
if not count then return redis.error_reply('ERR the key holds no counter') end
local ttl = redis.call('PTTL', key)
if give then
  if count > 0 and ttl > 0 then redis.call('DECRBY', key, math.min(count, cost)) end
  return reply(true, limit, 0, 0)
end
local allowed = count + cost <= limit
if allowed then count = redis.call('INCRBY', key, cost) end
if ttl < 0 then
  ttl = window
  expire(window - 1)
end
return reply(allowed, limit - count, ttl, allowed and 0 or ttl)
`

/** Command names on the client → Lua. */
export const SCRIPTS = {
  gcra: ['fluxorGcra', GCRA],
  slidingWindow: ['fluxorSlidingWindow', SLIDING_WINDOW],
  fixedWindow: ['fluxorFixedWindow', FIXED_WINDOW],
} as const
