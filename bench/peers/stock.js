/**
 * The official plugins put together as their documents show: forwarding by reply.from, round robin by getUpstream, CORS, bearer tokens, a rate
 * limit and Fastify's request log.
 */
import bearerAuth from '@fastify/bearer-auth'
import cors from '@fastify/cors'
import proxy from '@fastify/http-proxy'
import rateLimit from '@fastify/rate-limit'
import Fastify from 'fastify'
import { requestLog, undici } from './fastify-options.js'

const [port, ...upstreams] = process.argv.slice(2)

const app = Fastify({ logger: requestLog() })
await app.register(cors)
await app.register(rateLimit, { max: 1e9, timeWindow: '1 minute' })
await app.register(bearerAuth, { keys: new Set([process.env.BENCH_TOKEN]) })
let turn = 0
await app.register(proxy, {
  upstream: '',
  prefix: '/api/planner',
  undici,
  replyOptions: { getUpstream: () => upstreams[turn++ % upstreams.length] }
})
console.log('listening on', await app.listen({ port: Number(port), host: '127.0.0.1' }))
