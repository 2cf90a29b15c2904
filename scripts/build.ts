/**
 * `npm run build`: src → dist. The compiler does the modules; this copies what is not TypeScript (the dashboard's
 * files), keeps of the type declarations those that `index.d.ts` leads to, and makes dist/main.js executable.
 */

import { spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const src = join(root, 'src')
const dist = join(root, 'dist')
const SHEBANG = '#!/usr/bin/env node\n'

rmSync(dist, { recursive: true, force: true })

const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc')
const compiled = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], { cwd: root, stdio: 'inherit' })
if (compiled.status !== 0) process.exit(compiled.status ?? 1)

for (const file of globSync('**/*.*', { cwd: src })) {
  if (file.endsWith('.ts')) continue
  const target = join(dist, file)
  mkdirSync(dirname(target), { recursive: true })
  copyFileSync(join(src, file), target)
}

keepDeclarationsOf(join(dist, 'index.d.ts'))

const main = join(dist, 'main.js')
if (!existsSync(main)) {
  console.error('the build has no dist/main.js')
  process.exit(1)
}
const text = readFileSync(main, 'utf8')
if (!text.startsWith('#!')) writeFileSync(main, SHEBANG + text)
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
}
