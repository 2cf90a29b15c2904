/** Bodies that look like those of an API: what compresses is part of the question. */

const NAMES = ['Ada Lovelace', 'Grace Hopper', 'Alan Turing', 'Edsger Dijkstra', 'Barbara Liskov', 'Donald Knuth']
const STATES = ['shipped', 'pending', 'returned', 'paid']

/** JSON of exactly so many bytes: a list of orders with figures that do not repeat, the same at every run. */
export function jsonOf(bytes: number): Buffer {
  let seed = 1
  const next = (below: number) => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0
    return (seed >>> 8) % below
  }
  let text = '{"items":['
  for (let id = 1; ; id++) {
    const item = JSON.stringify({
      id: next(1_000_000),
      sku: next(0xffffff).toString(16),
      quantity: next(20),
      status: STATES[next(STATES.length)],
      customer: { id: next(10_000), name: NAMES[next(NAMES.length)] },
      total: `${next(1000)}.${next(90) + 10}`,
    })
    if (text.length + item.length + 14 > bytes) break
    text += id === 1 ? item : `,${item}`
  }
  return Buffer.from(`${text}],"pad":"`.padEnd(bytes - 2, '.').concat('"}'))
}
