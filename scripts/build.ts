/**
 * `npm run build`: src → dist. A few files in place of two hundred, with the schema library and the YAML parser in them:
 * finding and reading modules was half of a start. What is loaded late, or not at all, stays outside. The compiler makes
 * the type declarations, of which those are kept that `index.d.ts` leads to.
 */

import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  globSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'rolldown'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const src = join(root, 'src')
const dist = join(root, 'dist')
const SHEBANG = '#!/usr/bin/env node\n'
/** Libraries that become part of the files, and what their licences ask for: that they are given with them. */
const BUNDLED = ['yaml', 'zod']

const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

rmSync(dist, { recursive: true, force: true })

const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc')
const compiled = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], { cwd: root, stdio: 'inherit' })
if (compiled.status !== 0) process.exit(compiled.status ?? 1)

await build({
  cwd: root,
  // The command, the library, and what is started or required by its name.
  input: {
    main: join(src, 'main.ts'),
    index: join(src, 'index.ts'),
    worker: join(src, 'worker.ts'),
    config: join(src, 'policies/auth/config.ts'),
  },
  platform: 'node',
  external: Object.keys(dependencies).filter((name) => !BUNDLED.includes(name)),
  // V8 keeps the text of what it runs: without comments, which src has.
  output: { dir: dist, comments: false, entryFileNames: '[name].js', chunkFileNames: '[name]-[hash].js' },
})
// V8 keeps a text with a character beyond Latin-1 in twice the memory: they are all in literals and names, and escaped there.
const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
for (const file of globSync('*.js', { cwd: dist })) {
  const text = readFileSync(join(dist, file), 'utf8')
  writeFileSync(join(dist, file), text.replace(/[^\x00-\x7f]/g, escaped))
}
for (const name of BUNDLED) copyFileSync(join(root, 'node_modules', name, 'LICENSE'), join(dist, `${name}.LICENSE`))
cpSync(join(src, 'observability/dashboard'), join(dist, 'dashboard'), { recursive: true })

keepDeclarationsOf(join(dist, 'index.d.ts'))

const main = join(dist, 'main.js')
writeFileSync(main, SHEBANG + readFileSync(main, 'utf8'))
chmodSync(main, 0o755)

/** The rest is nobody's to import: `exports` of the package names one door. The compiler leaves `.ts` in specifiers. */
function keepDeclarationsOf(entry: string): void {
  const kept = new Set<string>()
  const visit = (file: string): void => {
    if (kept.has(file)) return
    kept.add(file)
    const text = readFileSync(file, 'utf8')
    const rewritten = text.replace(/(["'])(\.\.?\/[^"']+)\.ts\1/g, (_match, quote: string, specifier: string) => {
      visit(join(dirname(file), `${specifier}.d.ts`))
      return `${quote}${specifier}.js${quote}`
    })
    writeFileSync(file, rewritten)
  }
  visit(entry)
  for (const file of globSync('**/*.d.ts', { cwd: dist })) if (!kept.has(join(dist, file))) rmSync(join(dist, file))
  const folders = readdirSync(dist, { recursive: true, withFileTypes: true }).filter((entry) => entry.isDirectory())
  for (const { parentPath, name } of folders.reverse()) {
    const folder = join(parentPath, name)
    if (readdirSync(folder).length === 0) rmdirSync(folder)
  }
}
