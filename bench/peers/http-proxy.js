/** http-proxy behind a plain server of Node, with connections to the upstream kept alive. */
import { Agent, createServer } from 'node:http'
import httpProxy from 'http-proxy'

const [port, upstream] = process.argv.slice(2)

const proxy = httpProxy.createProxyServer({ target: upstream, agent: new Agent({ keepAlive: true }) })
proxy.on('error', (error, request, response) => {
  console.error(error.message)
  if (response.headersSent) response.destroy()
  else response.writeHead(502).end()
})
const server = createServer((request, response) => {
  request.url = request.url.slice('/api/planner'.length)
  proxy.web(request, response)
})
server.listen(Number(port), '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`))
