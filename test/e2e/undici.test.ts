/**
 * undici as the client towards agents (`upstreamClient: 'undici'`) under the tests of what agents may do: they come once more, as they are.
 * `FLEET_UPSTREAM_CLIENT=undici npm test -- test/e2e` runs all there are.
 */
process.env['FLEET_UPSTREAM_CLIENT'] = 'undici' // read by build-gateway.ts when it is loaded

for (const file of ['failover', 'faults-agent', 'fuzz', 'streams', 'wire-responses']) await import(`./${file}.test.ts`)
