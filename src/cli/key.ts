/**
 * `fleet-gateway key new|list|revoke`: named keys in fleet.yaml. A new token is printed once, and only its digest is kept. Asks no gateway, since one
 * that runs watches the file; but for `key revoke --everywhere`, which reaches those that have other files.
 */
import { createHash, randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { Command, InvalidArgumentError } from 'commander'
import { namePattern } from '../agent-options.ts'
import { stateDirOf } from '../config.ts'
import { nearestNames } from '../fleet/nearest-names.ts'
import { scopes as allScopes, type Scope } from '../principal.ts'
import { RevokedShape } from './answers.ts'
import { withClient } from './client.ts'
import { fleetOf, integer, jsonOption, repeated, withExamples, withGateway } from './command.ts'
import { withFileLock } from './file-lock.ts'
import { colorsFor, CommandError, exitCodes, plain, print, printJson, say, type CommandIo } from './io.ts'
import { addKey, byHand, NotChanged, readKeyFile, removeKey, type KeyFile } from './key-file.ts'
import type { KeyEntry } from './key-edit.ts'
import { printTable } from './table.ts'
import { defaultFile, type ClientFlags } from './target.ts'

interface FileFlags {
  fleet?: string
  json?: boolean
}

interface NewFlags extends FileFlags {
  scope?: Scope[]
  agent?: string[]
  rateLimit?: number
}

interface RevokeFlags extends FileFlags, ClientFlags {
  everywhere?: boolean
}

/** What a gateway made of it. */
interface Revoked {
  /** Whether it has told others. */
  readonly shared: boolean
  readonly gateway: string
}

type WrittenKey = KeyFile['keys'][number]

/** Of a token; 256 bits can't be guessed, so that an unsalted digest of it tells nothing. */
const tokenBytes = 32

/** Told apart from other tokens at a glance, and by scanners that look for secrets. */
const tokenPrefix = 'fleet_'

/** What a bucket holds where the file does not say. */
const usualBurst = 100

export function keyCommand (io: CommandIo): Command {
  const command = new Command('key')
  for (const create of [newCommand, listCommand, revokeCommand]) command.addCommand(create(io))
  return withExamples(command, [
    ['fleet-gateway key new dashboard --scope read'],
    ['fleet-gateway key list'],
    ['fleet-gateway key revoke dashboard']
  ])
}

function fileCommand (name: string): Command {
  return new Command(name).option('--fleet, --fleet-yaml <file>', 'the fleet\'s file (fleet.yaml)').option(...jsonOption)
}

function newCommand (io: CommandIo): Command {
  const command = fileCommand('new')
    .usage('--scope <scope> [options] <id>')
    .description('make a key: prints its token, this once, and writes the token\'s SHA-256 into fleet.yaml')
    .argument('<id>', 'its name, in logs and rate limits', keyId)
    .option('--scope <scope>', `what it may do: ${allScopes.join(', ')}; needed, and may be repeated`, repeated(scope))
    .option('--agent <name>', 'an agent that it is for, by name and not by alias; may be repeated; all agents when left out', repeated(agentName))
    .option('--rate-limit <n>', 'requests a minute; the gateway\'s limit when left out', integer(1, 60_000_000))
    .action((id: string, flags: NewFlags) => changing(fleetOf(flags), named => newKey(id, named, io)))
  return withExamples(command, [
    ['fleet-gateway key new dashboard --scope read'],
    ['fleet-gateway key new build-bot --scope proxy --scope register --agent planner --rate-limit 60'],
    ['TOKEN=$(fleet-gateway key new ci --scope proxy)', 'the token is all that goes to standard output']
  ])
}

function listCommand (io: CommandIo): Command {
  const command = fileCommand('list')
    .description('list the keys in fleet.yaml, without their tokens')
    .action((flags: FileFlags) => listKeys(fleetOf(flags), io))
  return withExamples(command, [['fleet-gateway key list'], ['fleet-gateway key list --json | jq -r \'.[].id\'']])
}

function revokeCommand (io: CommandIo): Command {
  const command = withGateway(fileCommand('revoke')
    .description('take a key out of fleet.yaml: a gateway that runs refuses its token from then on')
    .argument('<id>', 'its name')
    .option('--everywhere', 'have a gateway revoke it first, with all that share its Redis, whatever their files say; the next three say which gateway'))
    .action((id: string, flags: RevokeFlags) => revoke(id, fleetOf(flags), io))
  return withExamples(command, [
    ['fleet-gateway key revoke build-bot'],
    ['fleet-gateway key revoke build-bot --everywhere', 'it has leaked: no gateway of the fleet takes it any more']
  ])
}

/** What reads the file and writes it back has it for itself. */
function changing<Flags extends FileFlags> (flags: Flags, change: (flags: Flags & { fleet: string }) => Promise<void>): Promise<void> {
  const named = { ...flags, fleet: flags.fleet ?? defaultFile }
  return withFileLock(named.fleet, () => change(named))
}

async function newKey (id: string, flags: NewFlags & { fleet: string }, io: CommandIo): Promise<void> {
  const scopes = [...new Set(flags.scope ?? [])]
  if (scopes.length === 0) throw new CommandError(`Say what the key may do with --scope: ${allScopes.join(', ')}`, exitCodes.wrongUsage)
  const file = await readKeyFile(flags.fleet, io.env)
  if (file.keys.some(key => key.id === id)) throw new CommandError(`There is a key "${id}" in ${file.file} already: choose another id, or revoke that one first`)
  const agents = flags.agent && [...new Set(flags.agent)]
  refuseAliases(agents ?? [], file)

  const token = tokenPrefix + randomBytes(tokenBytes).toString('base64url')
  const key: KeyEntry = {
    id,
    tokenSha256: createHash('sha256').update(token).digest('hex'),
    scopes,
    ...(agents !== undefined && { agents }),
    ...(flags.rateLimit !== undefined && { rateLimit: limitOf(flags.rateLimit, file) })
  }
  try {
    await addKey(file, key, io.env)
  } catch (error) {
    if (!(error instanceof NotChanged)) throw error
    printKey(key, token, file, flags, io) // whoever adds it by hand needs the token
    throw new CommandError(`${file.file} was not changed: ${error.why}. The key is not valid yet: add this to it by hand\n${byHand(key)}`)
  }
  printKey(key, token, file, flags, io)
  say(io, plain(`${file.file} ${file.text === undefined ? 'is made, and has' : 'has'} the key "${id}" now: ${scopes.join(', ')}, ${agents === undefined ? 'all agents' : agents.join(', ')}. Its token is not shown again`))
  for (const note of notesOfNew(file)) say(io, plain(note))
}

function printKey ({ id, scopes, agents, rateLimit }: KeyEntry, token: string, { file }: KeyFile, { json }: FileFlags, io: CommandIo): void {
  if (json) printJson(io, { id, token, scopes, agents: agents ?? ['*'], ...(rateLimit && { rateLimit }), file })
  else print(io, token)
}

/** A bucket that holds more than comes back in a minute is not what somebody means who says so many a minute. */
function limitOf (perMinute: number, { value }: KeyFile): NonNullable<KeyEntry['rateLimit']> {
  return perMinute < (value.rateLimit?.burst ?? usualBurst) ? { perMinute, burst: perMinute } : { perMinute }
}

/** Keys are for names: an alias can move to another agent. */
function refuseAliases (names: readonly string[], { value }: KeyFile): void {
  for (const { name, aliases, friendly_names: others } of value.agents ?? []) {
    const alias = names.find(given => given !== name && (aliases ?? others ?? []).includes(given))
    if (alias !== undefined) throw new CommandError(`"${alias}" is an alias of "${name}", and keys are for names: say --agent ${name}`, exitCodes.wrongUsage)
  }
}

/** What else a person needs to know, who has just made a key. */
function notesOfNew ({ auth, keys, unset, value, file }: KeyFile): string[] {
  const isFirst = keys.length === 0 && auth.secret === undefined && auth.secretFile === undefined && auth.jwt === undefined
  const made = join(stateDirOf(value, file), 'secret')
  return [
    ...unset.map(message => `Not everything was checked: ${message} here`),
    ...(auth.enabled === false ? ['auth.enabled is false: nobody is asked for a key before that changes'] : []),
    ...(isFirst
      ? [
          ...(existsSync(made)
            ? [`It is the first: the secret that "serve" made (${made}) opens the gateway no more, also one that runs. Clients and agents that had it need keys.`]
            : ['It is the first: "serve" makes no secret of its own any more, so keys alone open the gateway.']),
          'A secret that is given with --secret, FLEET_SECRET or FLEET_SECRET_FILE opens it as well.',
          'The file has only the digest, so the other commands can\'t find a token any more: give them one with FLEET_SECRET.'
        ]
      : []),
    'A gateway that watches the file takes it within a second. What a key may do can be changed in the file'
  ]
}

async function listKeys (flags: FileFlags, io: CommandIo): Promise<void> {
  const { keys, file, auth, text } = await readKeyFile(flags.fleet ?? defaultFile, io.env)
  if (flags.json) return printJson(io, keys.map(({ id, scopes, agents, rateLimit, ...key }) => ({ id, scopes, agents: agents ?? ['*'], ...(rateLimit && { rateLimit }), token: formOf(key) })))
  if (keys.length === 0) return say(io, plain(text === undefined ? `There is no ${file}, so there are no keys` : `${file} has no keys${auth.secret !== undefined || auth.secretFile !== undefined ? ', only a secret' : ''}`))
  const { dim } = colorsFor(io.stdout, io.env)
  printTable(io, ['id', 'scopes', 'agents', 'requests a minute', 'token'], keys.map(key => [plain(key.id), key.scopes.join(', '), plain(key.agents?.join(', ') ?? '*'), limitText(key), dim(formOf(key))]))
}

function limitText ({ rateLimit }: WrittenKey): string {
  if (rateLimit === undefined) return ''
  return rateLimit.enabled === false ? 'unlimited' : String(rateLimit.perMinute ?? '')
}

/** How its token is written, which tells nothing of it. */
function formOf ({ token, tokenFile }: Pick<WrittenKey, 'token' | 'tokenFile'>): string {
  return token !== undefined ? 'in the file' : tokenFile !== undefined ? 'in a file of its own' : 'SHA-256'
}

async function revoke (id: string, flags: RevokeFlags, io: CommandIo): Promise<void> {
  const { everywhere, url, ca, secret } = flags
  if (everywhere) return revokeEverywhere(id, flags, io)
  if ((url ?? ca ?? secret) !== undefined) throw new CommandError('--url, --ca and --secret are for --everywhere: without it no gateway is asked', exitCodes.wrongUsage)
  await changing(flags, named => revokeKey(id, named, io))
}

/** The gateway goes first: what is gone from the file it would not know any more, and could tell nobody of. */
async function revokeEverywhere (id: string, flags: RevokeFlags, io: CommandIo): Promise<void> {
  const { file, keys } = await readKeyFile(flags.fleet ?? defaultFile, io.env)
  const isInFile = keys.some(key => key.id === id)
  const revoked = await askGateway(id, flags, io).catch((error: unknown) => {
    if (!(error instanceof CommandError)) throw error
    throw new CommandError(plain(`${error.message}\n${file} is as it was${isInFile ? `, and has the key "${id}"` : ''}`), error.exitCode)
  })
  const { gateway, shared } = revoked
  say(io, plain(shared ? `All gateways that share a Redis with the one at ${gateway} refuse the key "${id}" from now on; where other files have it, take it out there, too` : `The gateway at ${gateway} refuses the key "${id}" from now on; it shares no Redis with others, so no other one was told`))
  if (isInFile) return changing(flags, named => revokeKey(id, named, io, revoked))
  if (flags.json) printJson(io, { id, revoked: true, keys: keys.length, file, gateway, shared })
  say(io, plain(`${file} has no such key, so nothing was to be taken out there`))
}

async function askGateway (id: string, flags: RevokeFlags, io: CommandIo): Promise<Revoked> {
  return withClient(flags, io, async client => {
    const { shared } = await client.send<{ shared: boolean }>('DELETE', `/keys/${encodeURIComponent(id)}`, RevokedShape)
    return { shared, gateway: client.target.url }
  })
}

/** @param revoked what a gateway has done already; undefined where none was asked */
async function revokeKey (id: string, flags: FileFlags & { fleet: string }, io: CommandIo, revoked?: Revoked): Promise<void> {
  const file = await readKeyFile(flags.fleet, io.env)
  const index = file.keys.findIndex(key => key.id === id)
  if (index === -1) {
    const [nearest] = nearestNames(id, file.keys.map(key => key.id), 1)
    throw new CommandError(plain(`There is no key "${id}" in ${file.file}${nearest === undefined ? '' : `; did you mean "${nearest}"?`}`))
  }
  try {
    await removeKey(file, index, io.env)
  } catch (error) {
    if (!(error instanceof NotChanged)) throw error
    throw new CommandError(`${file.file} was not changed: ${error.why}. ${revoked === undefined ? 'The key is still valid: remove' : 'The key is refused all the same; remove'} the entry "${id}" of auth.keys by hand`)
  }
  if (flags.json) printJson(io, { id, revoked: true, keys: file.keys.length - 1, file: file.file, ...revoked })
  say(io, plain(`${file.file} has no key "${id}" any more. ${revoked === undefined ? 'A gateway that watches it refuses the token within a second; streams' : 'Streams'} that are open go on`))
  for (const note of [...notesOfRevoked(file), ...revoked === undefined ? notesOfOthers(id, file, io) : []]) say(io, plain(note))
}

/** What else there may be, where this file is not all that says which keys there are. */
function notesOfOthers (id: string, { value }: KeyFile, { env, self }: CommandIo): string[] {
  if (value.redis?.url === undefined && (env['FLEET_REDIS_URL'] ?? '') === '') return []
  return [`Other gateways on the same Redis go by files of their own. Where one has the key still, ask it to have all of them refuse the token: ${self} key revoke ${id} --everywhere --url ITS-ADDRESS`]
}

function notesOfRevoked ({ auth, keys, value, file }: KeyFile): string[] {
  if (keys.length > 1 || auth.secret !== undefined || auth.secretFile !== undefined || auth.jwt !== undefined || auth.enabled === false) return []
  return [
    'It was the last, and there is no secret in the file: what opens a gateway that runs now is the secret that it was started with, if there was one.',
    `That may be the one in ${join(stateDirOf(value, file), 'secret')}; a gateway that is started again without one takes it, or makes it.`
  ]
}

function keyId (text: string): string {
  if (!new RegExp(namePattern).test(text)) throw new InvalidArgumentError('It must be letters, digits, ".", "_" and "-", 64 at most, beginning with a letter or digit.')
  return text
}

function agentName (text: string): string {
  if (text !== '*' && !new RegExp(namePattern).test(text)) throw new InvalidArgumentError('It must be the name of an agent, or "*".')
  return text
}

function scope (text: string): Scope {
  const found = allScopes.find(known => known === text)
  if (found === undefined) throw new InvalidArgumentError(`It must be one of ${allScopes.join(', ')}.`)
  return found
}
