import { describe, expect, it } from 'vitest'
import { warmUp } from '../../../src/loadtest/warm-up.ts'

describe('the warm-up of a load thread', () => {
  it('makes its requests, and leaves nothing open', async () => {
    const before = process.getActiveResourcesInfo().filter((kind) => kind.startsWith('TCP')).length
    expect(await warmUp(100)).toBe(100)
    const open = () => process.getActiveResourcesInfo().filter((kind) => kind.startsWith('TCP')).length
    // The server's side of a connection closes a moment after the client's.
    await expect.poll(open).toBe(before)
  })
})
