import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'

const run = promisify(execFile)
const read = (file: string): string => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')

/** Every image the demo is made of: those of its services and those its own image is built from. */
function images(): string[] {
  const services = read('docker-compose.yml').matchAll(/^\s*image: (\S+)/gm)
  const bases = read('examples/compose/Dockerfile').matchAll(/^FROM (\S+)/gm)
  return [...new Set([...services, ...bases].map(([, image]) => image ?? ''))]
}

/** One line for what is missing, before minutes of a build that cannot end well. */
export default async function requireDocker(): Promise<void> {
  await need(['info'], 'no Docker engine answers')
  await need(['compose', 'version'], 'the Docker CLI has no compose plugin (docker-compose-plugin)')
  for (const image of images()) {
    const here = run('docker', ['image', 'inspect', image])
    await here.catch(() => need(['pull', '--quiet', image], `the image ${image} cannot be had`))
  }
}

async function need(args: string[], otherwise: string): Promise<void> {
  try {
    await run('docker', args, { timeout: 300_000 })
  } catch (failure) {
    const { stderr = '', message } = failure as Error & { stderr?: string }
    const said = stderr.trim().split('\n').at(-1) || message
    const error = new Error(`${otherwise}: ${said}`)
    delete error.stack
    throw error
  }
}
