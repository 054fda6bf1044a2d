/**
 * What gateways do to the registry in Redis, as scripts: each is one step, on the server's time. Every change has the next version and is told to
 * all in a line `epoch version kind name authority`, and a word `part@version` for each part of which that is the last change: an authority, `=` for the settings, or
 * nothing for all of the agent. What it came to, they read themselves.
 *
 * `meta` has the epoch (which data this is), the version, the origin (which data a restored epoch was made of, and that of which, `epoch:version` each),
 * when a gateway last looked, and whether too many leases are over. An epoch's versions are later than all of the data that it was made of, so which of
 * two changes is the later one can be told across losses. `touched` has the last changes, those before the epoch as far as who wrote it knew them, each
 * with its version: `name authority`, `name ` for all of an agent and `name =` for its settings. Gateways that come later with what they know
 * leave alone what is later than that. An agent is a hash: its settings (`aliases`, `metadata`, `policy.…`), its instances (`i:authority`), since when they drain
 * (`d:authority`), and until when a gateway says that one which drains has requests of it (`b:authority gateway`). Leases are a sorted set by expiry,
 * and no keys that expire: whether an instance whose lease ran out leaves is a question of how many did (src/fleet/lapses.ts). Leases of instances
 * that drain are in `drains`: they have said goodbye, so their end says nothing of others. `lapses` has who left, by when that counts no more.
 */
import type { Redis } from 'ioredis'
import { leastLeased, mostMs } from '../../src/fleet/lapses.ts'
import { mostRecent } from './recent-changes.ts'

/** While no gateway looked for longer than this, no agent could renew anything: that time does not count. Nor does what a clock was put back. */
const stillMs = 3_000
/** By then every gateway knows of a drain, and has said whether requests of it are under way. */
const drainMs = 2_000

/**
 * An epoch's first version is the time, so many of them a millisecond: nobody changes more, and Lua writes what comes of it digit by digit. But, whatever the
 * clock says, it is so much more than what is known of the data before: others may have changed more.
 */
const versionsPerMs = 50
const unknownVersions = 2 ** 20

/** For so long after data was lost a gateway may come that knows more of it than the one that wrote it again. */
const writtenMs = 10 * 60_000

/** KEYS: meta, agents, leases, drains, lapses, names, touched, agent (or what agents' keys begin with). ARGV: epoch, channel, … */
const common = `
local meta, agents, leases, drains, lapses, names, touched, agent = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local epoch, channel = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function standStill ()
  local seen = tonumber(redis.call('HGET', meta, 'seen')) or now
  if now < seen or now - seen > ${stillMs} then
    local calmSince = tonumber(redis.call('HGET', meta, 'calmSince'))
    if calmSince then redis.call('HSET', meta, 'calmSince', calmSince + now - seen) end
    for _, set in ipairs({ leases, drains, lapses }) do
      local all = redis.call('ZRANGE', set, 0, -1, 'WITHSCORES')
      for index = 1, #all, 2 do redis.call('ZADD', set, all[index + 1] + now - seen, all[index]) end
    end
  end
  if now < seen or now - seen > 500 or now == seen then redis.call('HSET', meta, 'seen', now) end
end

local function decoded (text)
  local isJson, value = pcall(cjson.decode, text or '')
  return isJson and type(value) == 'table' and value or {}
end

local function isOther ()
  return redis.call('HGET', meta, 'epoch') ~= epoch
end

local function isLate (deadline)
  return now > tonumber(deadline)
end

-- How many changes this script told.
local told = 0

local function read (key)
  local version = redis.call('HGET', meta, 'version') or '0'
  local fields = redis.pcall('HGETALL', key)
  return { redis.call('HGET', meta, 'epoch') or '', version, fields.err and {} or fields, told }
end

-- As read, and the parts of the agent that were changed.
local function changed (parts)
  local answer = read(agent)
  answer[5] = parts
  return answer
end

-- Of parts without a version it is this change.
local function tell (kind, name, authority, parts, versions)
  told = told + 1
  local version = redis.call('HINCRBY', meta, 'version', 1)
  local line = redis.call('HGET', meta, 'epoch') .. string.format(' %.0f ', version) .. kind .. ' ' .. name .. ' ' .. authority
  for _, part in ipairs(parts or {}) do line = line .. ' ' .. part .. string.format('@%.0f', versions and versions[part] or version) end
  redis.call('PUBLISH', channel, line)
  return version
end

-- Where a gateway of an earlier build wrote this data, its versions may be lower than those of the data before.
local function isGrowing ()
  return redis.call('HGET', meta, 'growing') == redis.call('HGET', meta, 'epoch')
end

local function wasWrittenOfLate ()
  if not isGrowing() then return redis.call('EXISTS', touched) == 1 end
  return now - (redis.call('HGET', meta, 'writtenAt') or 0) < ${writtenMs}
end

-- Whether that was not known. An earlier build takes it that there is such a set for what says that the data was written of late.
local function touch (member, version)
  if not isGrowing() and redis.call('EXISTS', touched) == 0 then return false end
  local isLater = redis.call('ZADD', touched, 'GT', 'CH', version, member) == 1
  if isLater and redis.call('ZCARD', touched) > ${mostRecent} then redis.call('ZREMRANGEBYRANK', touched, 0, -${mostRecent} - 1) end
  return isLater
end

-- Whether a part of an agent was changed later than at this version of the data before.
local function isTouched (name, part, version)
  for _, member in ipairs({ name .. ' ' .. part, name .. ' ' }) do
    local at = redis.call('ZSCORE', touched, member)
    if at and tonumber(at) > tonumber(version) then return true end
  end
  return false
end

local function tellChange (kind, name, authority, parts)
  local version = tell(kind, name, authority, parts)
  if not isGrowing() then version = ${Number.MAX_SAFE_INTEGER} end
  for _, part in ipairs(parts) do touch(name .. ' ' .. part, version) end
end

local function ownerOf (name)
  return redis.call('HGET', names, name) or (redis.call('SISMEMBER', agents, name) == 1 and name) or nil
end

local function releaseAliases (key)
  for _, alias in ipairs(decoded(redis.call('HGET', key, 'aliases'))) do redis.call('HDEL', names, alias) end
end

local function authoritiesOf (key)
  local fields, found = redis.pcall('HKEYS', key), {}
  for _, field in ipairs(fields.err and {} or fields) do
    if field:sub(1, 2) == 'i:' then found[#found + 1] = field:sub(3) end
  end
  return found
end

local function isBusy (key, authority)
  local fields, own = redis.call('HGETALL', key), 'b:' .. authority .. ' '
  for index = 1, #fields, 2 do
    if fields[index]:sub(1, #own) == own and tonumber(fields[index + 1]) > now then return true end
  end
  return false
end

local function endLease (member)
  redis.call('ZREM', leases, member)
  redis.call('ZREM', drains, member)
end

local function drainLease (member)
  local score = redis.call('ZSCORE', leases, member)
  if not score then return end
  redis.call('ZREM', leases, member)
  redis.call('ZADD', drains, score, member)
end

local function removeAll (key, name)
  for _, authority in ipairs(authoritiesOf(key)) do endLease(name .. ' ' .. authority) end
  releaseAliases(key)
  redis.call('DEL', key)
  redis.call('SREM', agents, name)
end

local function endDrain (key, authority)
  local own = 'b:' .. authority .. ' '
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if field:sub(1, #own) == own then redis.call('HDEL', key, field) end
  end
  redis.call('HDEL', key, 'd:' .. authority)
end

local function removeInstance (key, name, authority)
  redis.call('HDEL', key, 'i:' .. authority)
  endDrain(key, authority)
  endLease(name .. ' ' .. authority)
  if #authoritiesOf(key) == 0 then removeAll(key, name) end
end

local function addSettings (entry, key, settings, isLatest)
  local isChanged = false
  if isLatest or not ownerOf(entry.name) then
    local before, free = redis.call('HGET', key, 'aliases'), {}
    releaseAliases(key)
    for _, alias in ipairs(entry.aliases) do
      if not ownerOf(alias) then
        redis.call('HSET', names, alias, entry.name)
        free[#free + 1] = alias
      end
    end
    if #free > 0 then redis.call('HSET', key, 'aliases', cjson.encode(free)) else redis.call('HDEL', key, 'aliases') end
    isChanged = redis.call('HGET', key, 'aliases') ~= before
  end
  for field, value in pairs(settings) do
    local before = redis.call('HGET', key, field)
    if not before or (isLatest and before ~= value) then
      redis.call('HSET', key, field, value)
      isChanged = true
    end
  end
  return isChanged
end

local function addInstance (key, name, authority, value, ttl, isDraining)
  local field, drain, member = 'i:' .. authority, 'd:' .. authority, name .. ' ' .. authority
  local wasDraining = redis.call('HEXISTS', key, drain) == 1
  local isChanged = redis.call('HGET', key, field) ~= value or wasDraining ~= isDraining
  redis.call('HSET', key, field, value)
  if wasDraining ~= isDraining then
    endLease(member)
    if wasDraining then endDrain(key, authority) else redis.call('HSET', key, drain, now) end
  end
  if ttl then redis.call('ZADD', isDraining and drains or leases, 'GT', now + ttl, member) else endLease(member) end
  return isChanged
end

-- What a gateway knows of an agent: what is not here and, if it knows more than what this data was made of, all that was not touched since. That is what it
-- knows at this version, or of some parts at versions of their own.
local function add (entry, isLatest, version)
  local name, key, isChanged = entry.name, agent .. entry.name, false
  local owner = ownerOf(name)
  if owner and owner ~= name then return false end
  local instances, isDraining, ttls, settings = {}, {}, {}, {}
  for index = 1, #entry.fields, 2 do
    local field, value = entry.fields[index], entry.fields[index + 1]
    if field:sub(1, 2) == 'i:' then instances[field:sub(3)] = value
    elseif field:sub(1, 2) == 'd:' then isDraining[field:sub(3)] = true
    elseif field ~= 'aliases' then settings[field] = value end
  end
  for index = 1, #entry.leases, 2 do ttls[entry.leases[index]] = entry.leases[index + 1] end
  local isThere = false
  for authority, value in pairs(instances) do
    if not isTouched(name, authority, (entry.versions or {})[authority] or version) and (isLatest or redis.call('HEXISTS', key, 'i:' .. authority) == 0) then
      if addInstance(key, name, authority, value, ttls[authority], isDraining[authority] or false) then isChanged = true end
      isThere = true
    end
  end
  if not owner and not isThere then return false end
  -- Of settings that were changed later, or went with the agent, nothing comes back.
  local settingsVersion = version
  if entry.versions then settingsVersion = entry.versions['='] end
  local areOlder = not settingsVersion and owner or settingsVersion and isTouched(name, '=', settingsVersion)
  if not areOlder and addSettings(entry, key, settings, isLatest and settingsVersion) then isChanged = true end
  redis.call('SADD', agents, name)
  return isChanged
end

-- What is not among the entries and was not touched has left. → names and authorities, one after the other
local function leaveOut (entries, version)
  local known, left = {}, {}
  for _, entry in ipairs(entries) do
    for index = 1, #entry.fields, 2 do known[entry.name .. ' ' .. entry.fields[index]] = true end
  end
  for _, name in ipairs(redis.call('SMEMBERS', agents)) do
    for _, authority in ipairs(authoritiesOf(agent .. name)) do
      if not known[name .. ' i:' .. authority] and not isTouched(name, authority, version) then
        removeInstance(agent .. name, name, authority)
        left[#left + 1] = name
        left[#left + 1] = authority
      end
    end
  end
  return left
end
`

const bodies = {
  /** → epoch, version, origin, time */
  look: `
return { redis.call('HGET', meta, 'epoch') or '', redis.call('HGET', meta, 'version') or '0', redis.call('HGET', meta, 'origin') or '', tostring(now) }`,

  /** Notes that a gateway looks. Fails where Redis can be read, and not be written. */
  note: `
standStill()
return 1`,

  /** → epoch, then members of touched and their versions */
  touched: `
local answer = redis.call('ZRANGE', touched, 0, -1, 'WITHSCORES')
table.insert(answer, 1, redis.call('HGET', meta, 'epoch') or '')
return answer`,

  /** → epoch, version, fields of the agent, how many changes were told: the last ones up to this version */
  read: 'return read(agent)',

  /**
   * deadline, name, authority, the instance in JSON, what of it was not given and what that is where nothing is known of it, settings and values → as read,
   * the parts that were changed (authorities, `=` for settings), and whether the instance is new; or `taken`, the name, its owner
   */
  write: `
if isOther() then return { 'other' } end
if isLate(ARGV[3]) then return { 'late' } end
local name, authority, instance, notGiven, defaults = ARGV[4], ARGV[5], cjson.decode(ARGV[6]), ARGV[7], cjson.decode(ARGV[8])
local aliases
local parts = { authority }
for index = 9, #ARGV, 2 do
  if ARGV[index] == 'aliases' then aliases = cjson.decode(ARGV[index + 1]) end
  parts[2] = '='
end
local owner = ownerOf(name)
if owner and owner ~= name then return { 'taken', name, owner } end
for _, alias in ipairs(aliases or {}) do
  owner = ownerOf(alias)
  if owner and owner ~= name then return { 'taken', alias, owner } end
end
if aliases then
  releaseAliases(agent)
  for _, alias in ipairs(aliases) do redis.call('HSET', names, alias, name) end
end
redis.call('SADD', agents, name)
for index = 9, #ARGV, 2 do redis.call('HSET', agent, ARGV[index], ARGV[index + 1]) end
-- What was not given stays as it is here: the gateway may not have heard of that yet.
local before, text = decoded(redis.call('HGET', agent, 'i:' .. authority)), ARGV[6]
local isNew = not before.host
if isNew then before = defaults end
for key in notGiven:gmatch('%a+') do
  local value = before[key]
  if key == 'trusted' then value = value and before.protocol == instance.protocol or false end
  if instance[key] ~= value then
    instance[key] = value
    text = cjson.encode(instance) -- else as gateways compare it
  end
end
redis.call('HSET', agent, 'i:' .. authority, text)
if redis.call('HEXISTS', agent, 'd:' .. authority) == 1 then endDrain(agent, authority) end
local member = name .. ' ' .. authority
endLease(member)
redis.call('ZREM', lapses, member)
if instance.ttlMs then redis.call('ZADD', leases, now + instance.ttlMs, member) end
tellChange('put', name, authority, parts)
local answer = changed(parts)
answer[6] = isNew and 1 or 0
return answer`,

  /** deadline, name, authority or '' for all of it, kind → as write */
  remove: `
if isOther() then return { 'other' } end
if isLate(ARGV[3]) then return { 'late' } end
standStill()
local name, authority, kind = ARGV[4], ARGV[5], ARGV[6]
if kind == 'drained' then
  local since = redis.call('HGET', agent, 'd:' .. authority)
  if not since or now - since < ${drainMs} or isBusy(agent, authority) then return changed({}) end
end
local parts = authority == '' and authoritiesOf(agent) or {}
parts[#parts + 1] = authority
if authority == '' then removeAll(agent, name) else removeInstance(agent, name, authority) end
tellChange(kind, name, authority, parts)
return changed(parts)`,

  /** deadline, name, authority → as write */
  drain: `
if isOther() then return { 'other' } end
if isLate(ARGV[3]) then return { 'late' } end
local name, authority = ARGV[4], ARGV[5]
if redis.call('HEXISTS', agent, 'i:' .. authority) == 1 then
  redis.call('HSET', agent, 'd:' .. authority, now)
  drainLease(name .. ' ' .. authority)
  tellChange('put', name, authority, { authority })
  return changed({ authority })
end
return changed({})`,

  /** authority, gateway: requests of this gateway are under way at an instance that drains */
  busy: `
if redis.call('HEXISTS', agent, 'd:' .. ARGV[3]) == 1 then redis.call('HSET', agent, 'b:' .. ARGV[3] .. ' ' .. ARGV[4], now + ${drainMs}) end
return 1`,

  /** member, ttl → whether it has a lease */
  renew: `
if isOther() then return { 'other' } end
standStill()
for _, set in ipairs({ leases, drains }) do
  if redis.call('ZSCORE', set, ARGV[3]) then
    redis.call('ZADD', set, now + ARGV[4], ARGV[3])
    return 1
  end
end
return 0`,

  /**
   * members → what is left of each lease in milliseconds, '' where there is none, 0 where it ran out and its instance is kept. Decides first about
   * all leases that ran out, as src/fleet/lapses.ts does for one gateway: together, so that no two gateways each find less than half.
   */
  settle: `
if isOther() then return { 'other' } end
standStill()
local function nameAndAuthority (member)
  local name, authority = member:match('^(%S+) (.+)$')
  return name or member, authority or ''
end
local function drop (member, name, authority)
  if redis.call('TYPE', agent .. name).ok == 'hash' then removeInstance(agent .. name, name, authority) end
  endLease(member)
  tellChange('lapsed', name, authority, { authority })
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', drains, '-inf', now)) do drop(member, nameAndAuthority(member)) end
redis.call('ZREMRANGEBYSCORE', lapses, '-inf', now)
local gone = redis.call('ZCARD', lapses)
local all, over = redis.call('ZCARD', leases) + gone, redis.call('ZCOUNT', leases, '-inf', now) + gone
local areMassive = all >= ${leastLeased} and over * 2 > all
if areMassive then
  redis.call('HSET', meta, 'massive', 1)
elseif redis.call('HDEL', meta, 'massive') == 1 then
  redis.call('HSET', meta, 'calmSince', now)
end
local calmSince = tonumber(redis.call('HGET', meta, 'calmSince') or 0)
local ended = redis.call('ZRANGEBYSCORE', leases, '-inf', areMassive and now - ${mostMs} or now, 'WITHSCORES')
for index = 1, #ended, 2 do
  local member, endedAt = ended[index], tonumber(ended[index + 1])
  local name, authority = nameAndAuthority(member)
  local ttl = tonumber(decoded(redis.pcall('HGET', agent .. name, 'i:' .. authority)).ttlMs) or 0
  local wasKept = areMassive or endedAt <= calmSince
  if areMassive or not wasKept or now >= math.min(calmSince + ttl, endedAt + ${mostMs}) then
    drop(member, name, authority)
    if not wasKept then redis.call('ZADD', lapses, now + math.min(ttl, ${mostMs}), member) end
  end
end
local left = {}
for index = 3, #ARGV do
  local score = redis.call('ZSCORE', leases, ARGV[index]) or redis.call('ZSCORE', drains, ARGV[index])
  left[index - 2] = score and tostring(math.max(0, math.floor(score - now))) or ''
end
return left`,

  /**
   * new epoch, version known, origin, agents in JSON, whether they are all that there was, what was changed of late and when (members of touched and versions, in JSON):
   * writes them where data is gone, or older than what is known → whether it did
   */
  restore: `
local found = redis.call('HGET', meta, 'epoch') or ''
if found ~= epoch or (found ~= '' and tonumber(redis.call('HGET', meta, 'version') or '0') >= tonumber(ARGV[4])) then return 0 end
local entries, isLatest = cjson.decode(ARGV[6]), ARGV[7] == 'all'
redis.call('DEL', touched, lapses)
if isLatest then leaveOut(entries, 0) end
for _, entry in ipairs(entries) do add(entry, isLatest, 0) end
local version = math.max(now * ${versionsPerMs}, ARGV[4] + ${unknownVersions})
redis.call('HDEL', meta, 'massive', 'calmSince')
redis.call('HSET', meta, 'epoch', ARGV[3], 'growing', ARGV[3], 'version', string.format('%.0f', version), 'origin', ARGV[5], 'seen', now, 'writtenAt', now)
local changes = cjson.decode(ARGV[8])
for index = 1, #changes, 2 do touch(changes[index], changes[index + 1]) end
tell('all', '', '')
return 1`,

  /**
   * agents in JSON, origin as it was found, origin from now on, up to which version it is known what this data was made of: adds what is not there. With a new origin they are all that there was at a later time than what
   * this data was made of: then all is made like them that was not touched → 1, or 0 where the origin is another by now
   */
  merge: `
if isOther() or (redis.call('HGET', meta, 'origin') or '') ~= ARGV[4] then return 0 end
local entries, isLatest = cjson.decode(ARGV[3]), ARGV[5] ~= '' and wasWrittenOfLate()
if isLatest then
  local left = leaveOut(entries, ARGV[6])
  for index = 1, #left, 2 do tell('removed', left[index], left[index + 1]) end
  redis.call('HSET', meta, 'origin', ARGV[5])
end
for _, entry in ipairs(entries) do
  if add(entry, isLatest, ARGV[6]) then tell('put', entry.name, '') end
end
return 1`,

  /**
   * parts of agents in JSON, with the version of each in data before this, and origin as it was found: makes them so where nothing was changed later
   * → how many changes that took, or -1 where the origin is another by now
   */
  again: `
if isOther() or (redis.call('HGET', meta, 'origin') or '') ~= ARGV[4] then return -1 end
if not wasWrittenOfLate() then return 0 end
for _, entry in ipairs(cjson.decode(ARGV[3])) do
  local name, key = entry.name, agent .. entry.name
  for _, authority in ipairs(entry.removed) do
    if not isTouched(name, authority, entry.versions[authority]) and redis.call('HEXISTS', key, 'i:' .. authority) == 1 then
      removeInstance(key, name, authority)
      tell('removed', name, authority, { authority }, entry.versions)
    end
  end
  if entry.versions[''] then
    local stays = {}
    for _, authority in ipairs(entry.there) do stays[authority] = true end
    for _, authority in ipairs(authoritiesOf(key)) do
      if not stays[authority] and not isTouched(name, authority, entry.versions['']) then
        removeInstance(key, name, authority)
        tell('removed', name, authority)
      end
    end
  end
  local isChanged, parts = add(entry, true, 0), {}
  for part, version in pairs(entry.versions) do
    if touch(name .. ' ' .. part, version) then parts[#parts + 1] = part end
  end
  if isChanged or #parts > 0 then tell('put', name, '', parts, entry.versions) end
end
return told`
} as const

export type ScriptName = keyof typeof bodies

/** Runs a script with the keys of the registry and of one agent. */
export type Run = (name: ScriptName, agent: string, ...args: readonly (string | number)[]) => Promise<unknown>

/** What the registry's keys are called. */
export interface RegistryKeys {
  readonly meta: string
  readonly agents: string
  readonly leases: string
  readonly drains: string
  readonly lapses: string
  readonly names: string
  readonly touched: string
  readonly channel: string
  agent (name: string): string
}

export function registryKeys (key: (...parts: readonly string[]) => string): RegistryKeys {
  const of = (...parts: string[]) => key('registry', ...parts)
  return {
    meta: of('meta'),
    agents: of('agents'),
    leases: of('leases'),
    drains: of('drains'),
    lapses: of('lapses'),
    names: of('names'),
    touched: of('later'),
    channel: of('changes'),
    agent: name => of('agent', name)
  }
}

const scripts = Object.entries(bodies).map(([name, body]) => ({ name: `fleet_${name}`, lua: common + body }))

/** Loads the scripts into a client; the server has each once. */
export function loadScripts (client: Redis, { meta, agents, leases, drains, lapses, names, touched, agent }: RegistryKeys): Run {
  for (const { name, lua } of scripts) client.defineCommand(name, { numberOfKeys: 8, lua })
  const commands = client as unknown as Record<string, (...args: (string | number)[]) => Promise<unknown>>
  return (name, agentName, ...args) => commands[`fleet_${name}`]!(meta, agents, leases, drains, lapses, names, touched, agent(agentName), ...args)
}
