import { readFileSync } from 'node:fs'

// `npm run build`: each of these is loaded by its name, from outside or as a process; what they share is in chunks. A
// worker that loads a few files instead of 190 starts about 90 ms sooner.
const { exports, sideEffects } = JSON.parse(readFileSync(new URL('package.json', import.meta.url), 'utf8'))
const entries = [...Object.values(exports).map(({ default: file }) => file), ...sideEffects]
  .filter((file) => file !== undefined)
  .map((file) => file.replace(/^\.\/dist\/(.*)\.js$/, '$1'))

export default {
  input: Object.fromEntries(entries.map((entry) => [entry, `build/${entry}.js`])),
  platform: 'node',
  external: (id) => !/^[./]/.test(id),
  output: { dir: 'dist', entryFileNames: '[name].js', chunkFileNames: 'chunks/[name].js' },
}
