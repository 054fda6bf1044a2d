/**
 * The work of a Docker engine, by hand: the Dockerfile read, each of its stages executed in an empty folder that stands for its root, with the files
 * that .dockerignore lets through, and commands started as in a container.
 */
import { execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, stat, symlink, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { DockerfileParser, type Copy, type Env, type From, type Instruction, type JSONInstruction, type Label } from 'dockerfile-ast'
import type { Test } from 'tap'
import { gatherFrom, type PrintingChild } from './printing-child.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const run = promisify(execFile)
const text = (name: string) => readFile(join(root, name), 'utf8')
export const isRoot = process.getuid?.() === 0

// ---- The Dockerfile, read

/** One stage: FROM and what follows it. */
type Stage = readonly Instruction[]

export const dockerfile = await text('Dockerfile')
export const stages = stagesOf(dockerfile)
export const lastStage = stages.at(-1) ?? []
export const baseImage = wordsOf(lastStage[0])[0] ?? ''

export function stagesOf (content: string): Stage[] {
  const all: Instruction[][] = []
  for (const instruction of DockerfileParser.parse(content).getInstructions()) {
    if (instruction.getKeyword() === 'FROM') all.push([])
    all.at(-1)?.push(instruction)
  }
  return all
}

export function wordsOf (instruction: Instruction | undefined): string[] {
  return instruction?.getArguments().map(argument => argument.getValue()) ?? []
}

/** The last one counts, as it does for the engine. */
export function last (stage: Stage, keyword: string): Instruction | undefined {
  return stage.findLast(instruction => instruction.getKeyword() === keyword)
}

/** The words of an exec form; none for the shell form, which is a shell's business. */
export function execForm (instruction: Instruction | undefined): string[] {
  return (instruction as JSONInstruction | undefined)?.getJSONStrings().map(string => string.getJSONValue()) ?? []
}

export function healthcheckOf (instruction: Instruction | undefined): string[] {
  const [, list] = /^CMD\s+(\[[^]*\])$/.exec(instruction?.getArgumentsContent() ?? '') ?? []
  return list === undefined ? [] : JSON.parse(list) as string[]
}

export function pairsOf (instruction: Instruction | undefined): Record<string, string> {
  return Object.fromEntries((instruction as Env | Label | undefined)?.getProperties().map(property => [property.getName(), property.getValue() ?? '']) ?? [])
}

export function flagOf (instruction: Instruction, name: string): string | undefined {
  return (instruction as Copy).getFlags().find(flag => flag.getName() === name)?.getValue() ?? undefined
}

// ---- .dockerignore, read

/** The rules of .dockerignore: the last pattern that matches a path, or a folder above it, decides. */
export async function dockerignore (): Promise<(path: string) => boolean> {
  const lines = (await text('.dockerignore')).split('\n').filter(line => line !== '' && !line.startsWith('#'))
  const rules = lines.map(line => {
    const pattern = line.replace(/^!/, '').replaceAll('.', '[.]').replaceAll(/\*\*\/|\*/g, stars => stars === '*' ? '[^/]*' : '(.*/)?')
    return { lets: line.startsWith('!'), pattern: new RegExp(`^${pattern}(/|$)`) }
  })
  return path => rules.findLast(({ pattern }) => pattern.test(path))?.lets ?? true
}

// ---- The work of an engine, by hand

/** What a stage has made, or a container that was made from it. */
export interface Image {
  /** The folder that stands for `/`. */
  readonly root: string
  workdir: string
  env: Record<string, string>
  /** `1000:1000`; empty for root. */
  user: string
  entrypoint: string[]
  command: string[]
  healthcheck: string[]
}

/** The folders of images and containers that are mapped; whatever else is absolute would be this machine's. */
const mappedFolder = /(?<![\w./])\/(?:app|fleet|etc\/fleet|run\/secrets|agents|repo)(?![\w-])/g

/** The same text, with the image's paths as they are here. */
export function mapped (image: Image, words: string): string {
  return words.replaceAll(mappedFolder, `${image.root}$&`)
}

/** Where a path of an instruction is here. */
export function placed (image: Image, path: string): string {
  const absolute = resolve('/', image.workdir, path)
  if (absolute !== '/' && absolute.replace(mappedFolder, '') === absolute) throw new Error(`by hand only some folders are mapped, and ${path} is in none of them`)
  return join(image.root, absolute)
}

/** Empty folders for images and containers, and a `node` that the image's user may start, too. Gone with the test. */
export async function createWorkshop (t: Test): Promise<{ bin: string, folder (name: string): Promise<string> }> {
  const path = await mkdtemp(join(tmpdir(), 'fleet-docker-'))
  t.teardown(() => rm(path, { recursive: true, force: true }))
  await chmod(path, 0o755)
  const folder = async (name: string) => {
    const made = await mkdtemp(join(path, `${name}-`))
    await chmod(made, 0o755)
    return made
  }
  const bin = await folder('bin')
  if (isRoot) {
    // This one may be in root's home.
    await copyFile(process.execPath, join(bin, 'node'))
  } else {
    await symlink(process.execPath, join(bin, 'node'))
    await writeFile(join(bin, 'chown'), '#!/bin/sh\nexit 0\n', { mode: 0o755 })
  }
  return { bin, folder }
}

type Workshop = Awaited<ReturnType<typeof createWorkshop>>

const pathWith = (bin: string) => `${bin}:${process.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin'}`

/** What npm needs to find its registry and its cache; nothing of the run that this test is part of. */
function builderEnv ({ bin }: Workshop): Record<string, string> {
  const needed = /^(HOME|TMPDIR|NODE_EXTRA_CA_CERTS|(npm_config_)?(https?|no)_?proxy|npm_config_(registry|cache|userconfig))$/i
  const own = Object.entries(process.env).filter(([name, value]) => value !== undefined && needed.test(name)) as [string, string][]
  return { ...Object.fromEntries(own), PATH: pathWith(bin), npm_config_prefer_offline: 'true' }
}

/** `env -i` rather than an option of spawn(): tap adds itself to the environment of whatever a test starts. */
function withEnv (env: Readonly<Record<string, string>>, command: readonly string[]): string[] {
  return ['env', '-i', ...Object.entries(env).map(([name, value]) => `${name}=${value}`), ...command]
}

/** The ids to start as; nothing when this test is not root and can be nobody else. */
function idsOf ({ user }: Image): { uid?: number, gid?: number } {
  if (!isRoot || user === '') return {}
  const [uid = NaN, gid = uid] = user.split(':').map(Number)
  return { uid, gid }
}

/** A build under way. */
interface Build {
  readonly workshop: Workshop
  /** The folder with what .dockerignore lets through. */
  readonly context: string
  /** Stages that are done, by name. */
  readonly images: Map<string, Image>
}

async function buildStage (build: Build, stage: Stage): Promise<Image> {
  const [from = '', , name = 'image'] = wordsOf(stage[0])
  const base = build.images.get(from)
  const folder = await build.workshop.folder(name)
  if (base !== undefined) await run('cp', ['-a', `${base.root}/.`, folder])
  const image: Image = { workdir: '/', user: '', entrypoint: [], command: [], healthcheck: [], ...base, env: { ...base?.env }, root: folder }
  for (const instruction of stage.slice(1)) await execute(build, image, instruction)
  return image
}

/** What CI has just done, by the same lockfile, for these very tests: the result is linked to. */
const everything = 'npm ci --ignore-scripts --no-audit --no-fund'

async function execute ({ workshop, context, images }: Build, image: Image, instruction: Instruction): Promise<void> {
  const words = wordsOf(instruction)
  switch (instruction.getKeyword()) {
    case 'WORKDIR':
      image.workdir = resolve('/', image.workdir, words[0] ?? '')
      return void await mkdir(placed(image, '.'), { recursive: true })
    case 'ENV':
      return void Object.assign(image.env, pairsOf(instruction))
    case 'COPY':
      return copy(image, instruction, sourceOf(flagOf(instruction, 'from'), context, images))
    case 'RUN': {
      const script = mapped(image, instruction.getArgumentsContent() ?? '')
      // The machine's own folders and npm's cache are not for a RUN to change.
      if (/(?<![\w./*])\/|[~$]|npm cache/.test(script.replaceAll(image.root, '.'))) throw new Error(`that can't be done by hand here: ${script}`)
      if (script === everything) return void await run('sh', ['-c', `rm -rf node_modules && ln -s ${root}/node_modules .`], { cwd: placed(image, '.') })
      const [command = '', ...args] = withEnv({ ...builderEnv(workshop), ...image.env }, ['/bin/sh', '-c', script])
      return void await run(command, args, { cwd: placed(image, '.'), ...idsOf(image) })
    }
    case 'USER':
      image.user = words[0] ?? ''
      return
    case 'ENTRYPOINT':
      image.entrypoint = execForm(instruction)
      return
    case 'CMD':
      image.command = execForm(instruction)
      return
    case 'HEALTHCHECK':
      image.healthcheck = healthcheckOf(instruction)
      return
    case 'LABEL': case 'EXPOSE': case 'STOPSIGNAL': case 'VOLUME':
      return
    default:
      throw new Error(`${instruction.getKeyword()} can't be done by hand yet`)
  }
}

/** The folder that COPY copies from. */
function sourceOf (stage: string | undefined, context: string, images: Build['images']): string {
  if (stage === undefined) return context
  const image = images.get(stage)
  if (image === undefined) throw new Error(`COPY --from=${stage}: there is no such stage`)
  return image.root
}

/** A folder's contents go into the target; a file does when that ends with a slash. */
async function copy (image: Image, instruction: Instruction, source: string): Promise<void> {
  const names = wordsOf(instruction)
  const target = names.pop() ?? ''
  const mode = flagOf(instruction, 'chmod')
  for (const name of names) {
    const path = join(source, name)
    const isFolder = (await stat(path)).isDirectory()
    const copied = isFolder || !target.endsWith('/') ? placed(image, target) : join(placed(image, target), basename(name))
    if (isFolder) await mkdir(copied, { recursive: true })
    await run('cp', ['-a', isFolder ? `${path}/.` : path, copied])
    if (mode !== undefined) await chmod(copied, parseInt(mode, 8))
  }
}

/** All stages, in order. @returns the image of the last one */
export async function buildImage (workshop: Workshop): Promise<Image> {
  const lets = await dockerignore()
  const context = await workshop.folder('context')
  const { stdout } = await run('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: root, maxBuffer: 16 * 1024 * 1024 })
  for (const path of stdout.split('\0').filter(path => path !== '' && lets(path) && existsSync(join(root, path)))) {
    await mkdir(dirname(join(context, path)), { recursive: true })
    await cp(join(root, path), join(context, path))
  }
  const build: Build = { workshop, context, images: new Map() }
  let image: Image | undefined
  for (const stage of stages) {
    image = await buildStage(build, stage)
    build.images.set((stage[0] as From).getBuildStage() ?? '', image)
  }
  if (image === undefined) throw new Error('the Dockerfile has no stage')
  return image
}

/** A container has the image's /app, which nobody can write to, and a /fleet of its own, so that the image stays as it is. */
export async function createContainer (workshop: Workshop, image: Image): Promise<Image> {
  const folder = await workshop.folder('container')
  await symlink(join(image.root, 'app'), join(folder, 'app'))
  await run('cp', ['-a', join(image.root, 'fleet'), folder])
  return { ...image, root: folder }
}

export interface Running extends PrintingChild {
  readonly pid: number
  /** Ends it as the engine would. @returns its exit code, or the signal that ended it */
  stop (): Promise<number | NodeJS.Signals>
}

/** Starts a command in a container, with the container's environment and nothing else; it ends with the test at the latest. */
export function start (t: Test, { bin }: Workshop, container: Image, command: readonly string[], { env = {}, asPid1 = false } = {}): Running {
  const { uid, gid } = idsOf(container)
  const given = withEnv({ ...container.env, ...env }, command).map(word => mapped(container, word))
  const cleared = [...given.slice(0, 2), `PATH=${pathWith(bin)}`, ...given.slice(2)]
  const [file = '', ...args] = asPid1 ? ['unshare', '--pid', '--fork', '--kill-child', `--setgid=${gid ?? 0}`, `--setuid=${uid ?? 0}`, ...cleared] : cleared
  const child = spawn(file, args, { cwd: placed(container, '.'), stdio: ['ignore', 'pipe', 'pipe'], ...(!asPid1 && uid !== undefined && { uid, gid }) })
  const printing = gatherFrom(child)
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
    await printing.ended
  })
  return {
    ...printing,
    pid: child.pid ?? NaN,
    async stop () {
      child.kill('SIGTERM')
      return await printing.ended
    }
  }
}

/** What `docker run IMAGE …` would start. */
export function commandOf ({ entrypoint, command }: Image, ...args: string[]): string[] {
  return [...entrypoint, ...(args.length > 0 ? args : command)]
}
