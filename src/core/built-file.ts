/** Of the folder that this package has been built into, whichever of its files this code has been put in. */
const BUILT: string = import.meta.url.replace(/^(.*\/(?:dist|build|src)\/).*$/, '$1')

/** A file of this package that is run, or read, by its name. */
export function builtFile(path: string): URL {
  return new URL(path, BUILT)
}
