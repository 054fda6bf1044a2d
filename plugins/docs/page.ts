/**
 * The page at `/docs`: a form for the token, a list of documents, and Swagger UI's own script and style sheet, which @fastify/swagger-ui brings.
 * Its plugin is not used: it serves the document to everybody at a second place, and starts before anybody could have given a token.
 * No script or style stands in the page, so that the policy can forbid both: whatever an agent's document says is no program here.
 */
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'

/** What a browser may do on the page. */
export const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

/** A file of the page. */
export interface PageFile {
  readonly type: string
  readonly bytes: Buffer
  readonly zipped: Buffer
}

/** Addresses are relative, so that the page works below any prefix, of the application's or of a proxy's in front. */
export const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fleet Gateway: API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/docs.css">
<link rel="icon" href="data:,">
</head>
<body>
<header>
<h1>Fleet Gateway</h1>
<label id="choice" hidden>API of <select id="document"></select></label>
<button id="leave" type="button" hidden>Forget the token</button>
</header>
<form id="sign-in" hidden>
<label for="token">The gateway's token</label>
<input id="token" type="password" autocomplete="off" spellcheck="false" required>
<button>Show the API</button>
</form>
<p id="status" role="status">Loading.</p>
<main id="swagger-ui"></main>
<noscript><p>This page needs scripts. The document itself is at <a href="openapi.json">openapi.json</a>.</p></noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/docs.js"></script>
</body>
</html>
`

const style = `:root { color-scheme: light dark; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; background: #fff; color: #1a1d21; }
html.dark-mode body { background: #1c2022; color: #e4e6e8; }
header, form, #status { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1.5rem; max-width: 1460px; margin: 0 auto; padding: .75rem 20px; box-sizing: border-box; }
header { border-bottom: 1px solid #8886; }
h1 { margin: 0; font-size: 1.15rem; }
#leave { margin-left: auto; }
[hidden], #status:empty { display: none !important; }
input, select, button { font: inherit; padding: .3rem .6rem; border: 1px solid #888; border-radius: 4px; background: transparent; color: inherit; }
select option { background: Canvas; color: CanvasText; }
input { min-width: min(24rem, 100%); box-sizing: border-box; }
:focus-visible { outline: 2px solid #2f6fde; outline-offset: 2px; }
`

/** In the form that every browser of the last years takes; kept small, since nothing checks it but its test. */
const script = `'use strict'
{
  const at = id => document.getElementById(id)
  const tokenKey = 'fleet-token'
  const mount = new URL('.', location.href).pathname
  const dark = matchMedia('(prefers-color-scheme: dark)')
  const setTheme = () => document.documentElement.classList.toggle('dark-mode', dark.matches)
  dark.addEventListener('change', setTheme)
  setTheme()

  // For this tab alone, and for as long as it is open.
  let token = sessionStorage.getItem(tokenKey) ?? ''
  let base = mount
  let inside = ''
  let latest = 0

  const say = text => { at('status').textContent = text }

  function ask (text) {
    at('swagger-ui').replaceChildren()
    at('sign-in').hidden = false
    at('choice').hidden = at('leave').hidden = true
    say(text)
    at('token').focus()
  }

  async function load (query) {
    const response = await fetch('openapi.json' + query, { headers: token === '' ? {} : { 'x-fleet-token': token }, cache: 'no-store', redirect: 'error' })
    const body = await response.json()
    return { status: response.status, body }
  }

  // Try it out: the token goes to the gateway, and below the agent whose document is shown, wherever parameters may lead.
  function addToken (request) {
    const target = new URL(request.url, location.href)
    if (target.origin !== location.origin || !target.pathname.startsWith(base)) throw new Error('This leads away from the API that is shown')
    const given = Object.keys(request.headers ?? {}).map(name => name.toLowerCase())
    if (token !== '' && !given.includes('x-fleet-token')) request.headers = { ...request.headers, 'X-Fleet-Token': token }
    return request
  }

  // What the gateway calls its mount may have another name out here, behind a proxy.
  function show (spec, name) {
    const [server] = spec.servers
    if (name === '') inside = server.url === '/' ? '' : server.url
    const outside = mount.slice(0, -1) + server.url.slice(inside.length)
    spec.servers = [{ url: outside === '' ? '/' : outside }]
    base = new URL(name === '' ? mount : outside + '/', location.href).pathname
    say('')
    at('swagger-ui').replaceChildren()
    SwaggerUIBundle({ spec, domNode: at('swagger-ui'), presets: [SwaggerUIBundle.presets.apis], validatorUrl: null, showMutatedRequest: false, deepLinking: false, docExpansion: 'list', defaultModelsExpandDepth: 0, requestInterceptor: addToken })
  }

  function offer (agents) {
    const options = [new Option('the gateway', '')]
    for (const [name, agent] of Object.entries(agents)) if (agent.document !== undefined) options.push(new Option(name, name))
    at('document').replaceChildren(...options)
    at('choice').hidden = options.length < 2
  }

  async function open (name) {
    const mine = ++latest
    say('Loading.')
    let answer
    try {
      answer = await load(name === '' ? '' : '?agent=' + encodeURIComponent(name))
    } catch (error) {
      if (mine === latest) say('The gateway can not be asked: ' + error.message)
      return
    }
    if (mine !== latest) return
    const { status, body } = answer
    if (status === 401 || status === 403) {
      sessionStorage.removeItem(tokenKey)
      const was = token
      token = ''
      return ask(was === '' && status === 401 ? 'A token with the scope read shows every route.' : body.detail)
    }
    if (status !== 200) return say(body.detail ?? 'The gateway answers with status ' + status)
    if (token !== '') sessionStorage.setItem(tokenKey, token)
    at('sign-in').hidden = true
    at('leave').hidden = token === ''
    if (name === '') offer(body['x-fleet-agents'] ?? {})
    show(body, name)
  }

  at('sign-in').addEventListener('submit', event => {
    event.preventDefault()
    token = at('token').value.trim()
    at('token').value = ''
    open('')
  })
  at('document').addEventListener('change', () => open(at('document').value))
  at('leave').addEventListener('click', () => {
    token = ''
    sessionStorage.removeItem(tokenKey)
    ask('The token is forgotten.')
  })
  open('')
}
`

const ownFiles: Readonly<Record<string, { type: string, text: string }>> = {
  'docs.css': { type: 'text/css; charset=utf-8', text: style },
  'docs.js': { type: 'text/javascript; charset=utf-8', text: script }
}

/** Those of Swagger UI that the page uses: 1.9 MB, 0.5 MB zipped. */
const swaggerFiles: Readonly<Record<string, string>> = {
  'swagger-ui-bundle.js': 'text/javascript; charset=utf-8',
  'swagger-ui.css': 'text/css; charset=utf-8'
}

const zip = promisify(gzip)

/** Reads a file of the page by its name, once for all who want it; undefined when there is none. */
export function createPageFiles (): (name: string) => Promise<PageFile> | undefined {
  const files = new Map<string, Promise<PageFile>>()
  const require = createRequire(import.meta.url)
  const folder = join(dirname(require.resolve('@fastify/swagger-ui/package.json')), 'static')

  async function read (name: string, type: string, text: string | undefined): Promise<PageFile> {
    const bytes = text === undefined ? await readFile(join(folder, name)) : Buffer.from(text)
    return { type, bytes, zipped: await zip(bytes) }
  }

  return name => {
    const own = Object.hasOwn(ownFiles, name) ? ownFiles[name] : undefined
    const type = own?.type ?? (Object.hasOwn(swaggerFiles, name) ? swaggerFiles[name] : undefined)
    if (type === undefined) return undefined
    let file = files.get(name)
    if (file === undefined) {
      file = read(name, type, own?.text)
      files.set(name, file)
      file.catch(() => files.delete(name))
    }
    return file
  }
}
