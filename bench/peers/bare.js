/** @fastify/http-proxy in front of one upstream, and nothing else: what ratios are taken against. */
import proxy from '@fastify/http-proxy'
import Fastify from 'fastify'

const [port, upstream] = process.argv.slice(2)

const app = Fastify({
  // BENCH_LOG: a file for Fastify's own request log.
  logger: process.env.BENCH_LOG === undefined ? false : { file: process.env.BENCH_LOG }
})
await app.register(proxy, {
  upstream,
  prefix: '/api/planner',
  // 128 connections unless told otherwise, which would leave most event streams waiting.
  undici: { connections: Number(process.env.BENCH_CONNECTIONS ?? 128), pipelining: 1 }
})
console.log('listening on', await app.listen({ port: Number(port), host: '127.0.0.1' }))
