/** @fastify/http-proxy in front of one upstream, and nothing else: what ratios are taken against. */
import proxy from '@fastify/http-proxy'
import Fastify from 'fastify'
import { requestLog, undici } from './fastify-options.js'

const [port, upstream] = process.argv.slice(2)

const app = Fastify({ logger: requestLog() })
await app.register(proxy, { upstream, prefix: '/api/planner', undici })
console.log('listening on', await app.listen({ port: Number(port), host: '127.0.0.1' }))
