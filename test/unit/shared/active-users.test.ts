import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ActiveUsers, createActiveUsersMemory, readActiveUsers } from '../../../src/shared/active-users.ts'

const MINUTE_MS = 60_000

describe('active users', () => {
  it('tells the users and requests of the last whole minute, over all threads', () => {
    const memory = createActiveUsersMemory(2)
    const [a, b] = memory.map((buffer) => new ActiveUsers(buffer, 0)) as [ActiveUsers, ActiveUsers]
    for (let i = 0; i < 10; i++) {
      a.count('alice', 1000 + i)
      b.count(i < 5 ? 'alice' : 'bob', 1000 + i)
    }
    expect(readActiveUsers(memory, 59_000)).toEqual({ users: 0, requests: 0 })
    expect(readActiveUsers(memory, 61_000)).toEqual({ users: 2, requests: 20 })
    expect(readActiveUsers(memory, 2 * MINUTE_MS)).toEqual({ users: 0, requests: 0 })
  })

  it('starts each minute anew, also one that comes three minutes later', () => {
    const memory = createActiveUsersMemory(1)
    const users = new ActiveUsers(memory[0]!, 0)
    users.count('old', 0)
    users.count('new', 3 * MINUTE_MS)
    expect(readActiveUsers(memory, 4 * MINUTE_MS)).toEqual({ users: 1, requests: 1 })
  })

  it('goes on with what a thread before it has counted', () => {
    const memory = createActiveUsersMemory(1)
    new ActiveUsers(memory[0]!, 0).count('a', 0)
    new ActiveUsers(memory[0]!, 0).count('b', 10)
    expect(readActiveUsers(memory, MINUTE_MS)).toEqual({ users: 2, requests: 2 })
  })

  it.each([100, 5_000, 50_000, 400_000])('is at most 6 % off with %i addresses', (n) => {
    const memory = createActiveUsersMemory(1)
    const users = new ActiveUsers(memory[0]!, 0)
    for (let i = 0; i < n; i++) users.count(`10.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}`, 0)
    expect(Math.abs(readActiveUsers(memory, MINUTE_MS).users / n - 1)).toBeLessThan(0.06)
  })

  it('counts who comes often once, whatever the names', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.string(), { maxLength: 60 }), fc.integer({ min: 1, max: 5 }), (names, times) => {
        const memory = createActiveUsersMemory(1)
        const users = new ActiveUsers(memory[0]!, 0)
        for (let i = 0; i < times; i++) for (const name of names) users.count(name, 0)
        const { users: estimate, requests } = readActiveUsers(memory, MINUTE_MS)
        expect(requests).toBe(names.length * times)
        // Two names in one register among 4096 are rare and cost one
        expect(Math.abs(estimate - names.length)).toBeLessThanOrEqual(3)
      }),
      { numRuns: 50 },
    )
  })
})
