/** Starts what the proxies stand in front of: two instances, as cheap as they can be had. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { largeBytes, small } from './upstream/answers.js'
import { findProgram } from './stage.js'

const file = name => fileURLToPath(new URL(name, import.meta.url))

/** Puts values for `{{name}}` into a configuration file of this folder; every placeholder needs one. */
export function fillIn (template, values) {
  return readFileSync(file(template), 'utf8').replaceAll(/\{\{(\w+)\}\}/g, (_, name) => {
    if (values[name] === undefined) throw new Error(`${template} asks for ${name}`)
    return values[name]
  })
}

/** As root, nginx would hand its worker to a user who can't read the temporary folder. */
export const nginxUser = () => process.getuid?.() === 0 ? 'user root;\n' : ''

/**
 * @param {{ events?: boolean, ownTools?: boolean }} needs event streams come from Node; `ownTools`: so does everything
 * @returns {Promise<{ ports: number[], about: string, running: object }>}
 */
export async function startUpstreams (stage, { events = false, ownTools = false }) {
  const nginx = ownTools || events ? undefined : findProgram('nginx')
  if (nginx === undefined) {
    const running = stage.start(process.execPath, [file('upstream/server.js')])
    await stage.prints(running, /^(ready)$/m)
    return { running, about: 'one Node process with two ports', ports: [...running.printed().matchAll(/^port (\d+)$/gm)].map(([, port]) => Number(port)) }
  }
  const folder = stage.makeFolder('upstream')
  const ports = await stage.freePorts(2)
  writeFileSync(join(folder, 'large'), Buffer.alloc(largeBytes, 'x'))
  writeFileSync(join(folder, 'take'), '') // POST of a file is 405, of none 404
  writeFileSync(join(folder, 'nginx.conf'), nginxUser() + fillIn('upstream/nginx.conf', { folder, small, port1: ports[0], port2: ports[1] }))
  const running = stage.start(nginx, ['-c', join(folder, 'nginx.conf'), '-e', join(folder, 'error.log'), '-g', 'daemon off;'], { cwd: folder })
  for (const port of ports) await stage.listens(running, port)
  return { running, about: 'one nginx worker with two ports', ports }
}
