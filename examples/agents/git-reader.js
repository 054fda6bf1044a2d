/**
 * An agent that reads a git repository: the one at REPO, else the one it was started in. It changes nothing, and it reads what is
 * committed through git, never the files of the disk.
 *
 *   GET /log?n=10    GET /branches    GET /files    GET /file/<path>    GET /commit/<sha>
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { HttpError, sendJson, serve } from './serve.js'

const run = promisify(execFile)
const repository = process.env.REPO ?? process.cwd()
const maxOutputBytes = 16 * 1024 * 1024
// Errors in English, since they are told apart below; and the repository is the one asked for, whatever started this process.
const { GIT_DIR, GIT_WORK_TREE, GIT_INDEX_FILE, ...environment } = process.env
const gitEnvironment = { ...environment, LC_ALL: 'C', GIT_OPTIONAL_LOCKS: '0' }
const commitFormat = '%H%x00%an%x00%aI%x00%s'

serve({
  name: 'git-agent',
  defaultPort: 8502,
  routes: {
    async 'GET /log' ({ response, url }) {
      const n = url.searchParams.get('n') ?? '10'
      if (!/^[1-9]\d{0,2}$/.test(n)) throw new HttpError(400, 'n must be a whole number from 1 to 999')
      sendJson(response, 200, { commits: commits(await git('log', `--max-count=${n}`, `--format=${commitFormat}`)) })
    },
    async 'GET /branches' ({ response }) {
      const output = await git('for-each-ref', '--format=%(refname:short)%00%(objectname)%00%(HEAD)', 'refs/heads')
      const branches = lines(output).map(line => {
        const [name, sha, head] = line.split('\0')
        return { name, sha, current: head === '*' }
      })
      sendJson(response, 200, { branches })
    },
    async 'GET /files' ({ response }) {
      sendJson(response, 200, { files: await files() })
    },
    async 'GET /file/*' ({ response, rest }) {
      const path = decode(rest)
      if (!(await files()).includes(path)) throw new HttpError(404, `no file ${JSON.stringify(path)} is committed`)
      const content = await git('cat-file', 'blob', `HEAD:${path}`)
      response.writeHead(200, { 'content-type': content.includes(0) ? 'application/octet-stream' : 'text/plain; charset=utf-8', 'content-length': content.length })
      response.end(content)
    },
    async 'GET /commit/*' ({ response, rest }) {
      if (!/^[0-9a-f]{4,64}$/i.test(rest)) throw new HttpError(400, 'a commit is named by 4 to 64 hexadecimal digits')
      const revision = `${rest}^{commit}`
      const [commit] = commits(await git('log', '--max-count=1', `--format=${commitFormat}`, revision, '--'))
      const body = await git('log', '--max-count=1', '--format=%b', revision, '--')
      const changed = await git('diff-tree', '--root', '-r', '-z', '--no-commit-id', '--name-only', commit.sha)
      sendJson(response, 200, { ...commit, body: body.toString().trim(), files: words(changed) })
    }
  }
})

function commits (output) {
  return lines(output).map(line => {
    const [sha, author, date, subject] = line.split('\0')
    return { sha, author, date, subject }
  })
}

async function files () {
  return words(await git('ls-tree', '-r', '-z', '--name-only', '--full-tree', 'HEAD'))
}

const lines = output => output.toString().split('\n').filter(line => line !== '')
const words = output => output.toString().split('\0').filter(word => word !== '')

function decode (path) {
  try {
    return decodeURIComponent(path)
  } catch {
    throw new HttpError(400, 'the path is not well percent-encoded')
  }
}

/** What git refuses with, and what that means for whoever asked. */
const refusals = [
  [/not a git repository|cannot change to/i, 503, `${repository} is not a git repository`],
  [/dubious ownership/i, 503, `${repository} belongs to another user; see git's safe.directory`],
  [/does not have any commits|not a valid object name:? '?HEAD/i, 404, 'the repository has no commits yet'],
  [/bad file/i, 404, 'that is a submodule, not a file'],
  [/unknown revision|bad (object|revision)|ambiguous/i, 404, 'no such commit']
]

/** What git says, as bytes. Arguments go to git itself, never through a shell. */
async function git (...args) {
  try {
    const { stdout } = await run('git', ['-C', repository, '--no-pager', ...args], { encoding: 'buffer', maxBuffer: maxOutputBytes, env: gitEnvironment })
    return stdout
  } catch (error) {
    const said = String(error.stderr ?? '')
    if (error.code === 'ENOENT') throw new HttpError(503, 'git is not installed')
    if (error.code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER') throw new HttpError(413, 'that is too large to be shown')
    for (const [pattern, status, message] of refusals) {
      if (pattern.test(said)) throw new HttpError(status, message)
    }
    throw error
  }
}
