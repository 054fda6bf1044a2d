/** Holds OpenAPI documents against the specification's schema, and answers against a document. */
import { readFileSync } from 'node:fs'
import { Ajv2020, type ErrorObject } from 'ajv/dist/2020.js'

type Mapping = Record<string, unknown>

/** The parts that tests look at. */
export interface OpenApi {
  openapi: string
  servers: { url: string }[]
  tags: { name: string }[]
  paths: Record<string, Record<string, { tags?: string[], summary?: string, parameters?: { name: string, in: string }[], requestBody?: unknown, security?: Mapping[], responses: Record<string, { content?: Record<string, { schema: object }> }> }>>
  components: { schemas: Record<string, object>, securitySchemes: Record<string, object> }
  'x-fleet-agents': Record<string, { document?: string, title?: string, problem?: string }>
}

/** The specification's schema of OpenAPI 3.1 documents, as it is published (https://spec.openapis.org/oas/3.1/schema/). */
const specification = JSON.parse(readFileSync(new URL('../fixtures/openapi-3.1.schema.json', import.meta.url), 'utf8')) as object

/** One for all: each begins by compiling JSON Schema's own schemas, for some 50 ms of a processor. */
const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: true })
const validateDocument = ajv.compile(specification)

/** What is wrong with a document: by the specification, references that lead nowhere, paths whose parameters are not described. */
export function documentProblems (document: OpenApi): string[] {
  const wrong = validateDocument(document) ? [] : inWords(validateDocument.errors)
  const dangling = referencesIn(document).filter(reference => !reference.startsWith('#/') || at(document, reference) === undefined)
  const undescribed = Object.entries(document.paths).flatMap(([path, item]) => Object.entries(item).flatMap(([method, { parameters = [] }]) => {
    const named = [...path.matchAll(/\{([^}]+)\}/g)].map(([, name]) => name!)
    const described = parameters.filter(parameter => parameter.in === 'path').map(({ name }) => name)
    return named.sort().join() === described.sort().join() ? [] : [`${method} ${path} describes ${described.join()}`]
  }))
  return [...wrong, ...dangling.map(reference => `${reference} leads nowhere`), ...undescribed]
}

function inWords (errors: ErrorObject[] | null | undefined): string[] {
  return (errors ?? []).map(({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`)
}

function referencesIn (value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, inner]) => key === '$ref' && typeof inner === 'string' ? [inner] : referencesIn(inner))
}

function at (document: object, reference: string): unknown {
  return reference.slice(2).split('/').reduce<unknown>((value, part) => (value as Mapping | undefined)?.[part.replaceAll('~1', '/').replaceAll('~0', '~')], document)
}

/** What is wrong with an answer, as the document describes the operation; also a field that it says nothing of. */
export function answerProblems (document: OpenApi, operation: string, answer: { statusCode: number, headers: Record<string, unknown>, body: string }): string[] {
  const [method = '', path = ''] = operation.split(' ')
  const response = document.paths[path]?.[method.toLowerCase()]?.responses[answer.statusCode]
  if (response === undefined) return [`${operation}: ${answer.statusCode} is not described: ${answer.body}`]
  const type = String(answer.headers['content-type']).split(';')[0]!
  const media = response.content?.[type]
  if (media === undefined) return [`${operation}: ${type} is not described for ${answer.statusCode}`]
  return type.endsWith('json') ? valueProblems(document, media.schema, JSON.parse(answer.body)).map(problem => `${operation} ${answer.statusCode}: ${problem}`) : []
}

/** @param schema as it stands in the document */
export function valueProblems (document: OpenApi, schema: object, value: unknown): string[] {
  const components = strict(document.components) as object
  const validate = ajv.compile({ ...strict(schema) as object, components })
  return validate(value) ? [] : inWords(validate.errors)
}

/** Objects whose fields are listed have no others, unless it is said that they may. */
function strict (schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(strict)
  if (typeof schema !== 'object' || schema === null) return schema
  const copy = Object.fromEntries(Object.entries(schema).map(([key, inner]) => [key, strict(inner)]))
  return 'properties' in copy && 'required' in copy && Array.isArray(copy['required']) && !('additionalProperties' in copy) ? { ...copy, additionalProperties: false } : copy
}
