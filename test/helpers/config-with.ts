/** Configurations for tests that go through every setting. */

/** A configuration with this value at the path, and around it what makes it valid if the value is. */
export function configWith (path: string, value: unknown): object {
  const needed: Record<string, object> = {
    'agents[]': /^agents\[\]\.(?:instances|port)/.test(path) ? { name: 'a' } : { name: 'a', port: 1, ...(path.startsWith('agents[].tls') && { protocol: 'https' }) },
    'agents[].dns': { name: 'a.test', port: 1 },
    'agents[].tls': { certFile: 'f', keyFile: 'f' },
    'server.tls': { certFile: 'f', keyFile: 'f' },
    'agents[].instances[]': { port: 1 },
    'paths[]': { prefix: '/', timeouts: {} },
    'agents[].paths[]': { prefix: '/', timeouts: {} },
    'auth.jwt': { issuer: 'i', audience: 'a', ...(path !== 'auth.jwt.jwksFile' && { jwksUrl: 'https://issuer.example/' }) },
    'auth.keys[]': { id: 'k', scopes: ['read'], ...(!path.startsWith('auth.keys[].token') && { tokenFile: 'f' }) }
  }
  const parts = path.split('.')
  return parts.reduceRight<unknown>((below, part, index) => ({
    ...needed[parts.slice(0, index).join('.')],
    [part.replace('[]', '')]: part.endsWith('[]') ? [below] : below
  }), value) as object
}
