/** The key `agents` of a YAML file, for a gateway that is put together by hand; whatever else the file says is another's business. */
import { FileAgentOptions, toAgentDefinitions, type FileAgent } from '../../src/agent-options.ts'
import { agentProblems } from '../../src/agent-rules.ts'
import { ConfigError, locate, placing, readYamlFile, schemaErrors, type ConfigSource } from '../../src/config-file.ts'
import type { AgentDefinition } from '../../src/fleet/registry.ts'
import { Options, Type, parseOptions } from '../../src/options.ts'
import type { Environment, YamlProblem } from '../../src/yaml.ts'

const AgentsOptions = Options({ agents: Type.Array(FileAgentOptions, { default: [] }) }, 'The agents.')

/** The agents of the file; none when it does not exist. @throws {ConfigError} with everything that is wrong */
export async function loadAgents (file: string, env: Environment): Promise<AgentDefinition[]> {
  const { value = {}, problems, ...source } = await readYamlFile(file, env, ['agents'])
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new ConfigError(locate([{ path: '', at: 'value', message: 'must be object' }], source))
  const agents = parseAgents((value as { agents?: unknown }).agents ?? [], source, problems)
  return await placing(source, () => toAgentDefinitions(agents))
}

/**
 * Checks a list of agents, and resolves it.
 * @param variables values that named variables which are not there
 * @throws {ConfigError} with everything that is wrong
 */
export function parseAgents (agents: unknown, source: ConfigSource = {}, variables: readonly YamlProblem[] = []): FileAgent[] {
  const errors = schemaErrors(AgentsOptions, { agents }, source)
  const isSound = (path: string) => !errors.some(error => error.path === path || error.path.startsWith(`${path}.`))
  errors.push(...agentProblems(agents, isSound))
  if (errors.length > 0 || variables.length > 0) throw new ConfigError(locate(errors, source, variables))
  return parseOptions(AgentsOptions, { agents }, '').agents
}
