/** http-proxy-middleware on Express, with connections to the upstream kept alive. */
import { Agent } from 'node:http'
import express from 'express'
import { createProxyMiddleware } from 'http-proxy-middleware'

const [port, upstream] = process.argv.slice(2)

const app = express()
app.use('/api/planner', createProxyMiddleware({ target: upstream, agent: new Agent({ keepAlive: true }) }))
const server = app.listen(Number(port), '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`))
