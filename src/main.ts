/**
 * The command. It imports nothing at first: an older Node must still get as far as the sentence that says which one is
 * needed, instead of a syntax error in some module.
 */

const NEEDED = [24, 17] as const
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)

if (major < NEEDED[0] || (major === NEEDED[0] && minor < NEEDED[1])) {
  console.error(`fluxor-gateway needs Node.js ${NEEDED.join('.')} or newer; this is ${process.version}.`)
  process.exitCode = 1
} else {
  const { main } = await import('./commands/cli.ts')
  process.exitCode = await main(process.argv.slice(2))
}

export {}
