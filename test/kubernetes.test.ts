/**
 * The Kubernetes example, without a cluster: what its objects say of each other, of the image and of the fleet has to be true. (That each object
 * is of the published form was checked with the schemas of kubernetes-models.)
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { CORE_SCHEMA, loadAll } from 'js-yaml'
import t from 'tap'
import { parseConfig, type FleetConfig } from '../src/config.ts'
import { parseYaml } from '../src/yaml.ts'

const root = fileURLToPath(new URL('..', import.meta.url))

type Labels = Readonly<Record<string, string>>

interface Probe { readonly httpGet: { readonly path: string, readonly port: string } }

interface Container {
  readonly args?: readonly string[]
  readonly command?: readonly string[]
  readonly env?: readonly { readonly name: string, readonly value?: string, readonly valueFrom?: { readonly secretKeyRef: { readonly name: string, readonly key: string, readonly optional?: boolean } } }[]
  readonly ports: readonly { readonly name: string, readonly containerPort: number }[]
  readonly readinessProbe: Probe
  readonly livenessProbe?: Probe
  readonly startupProbe?: Probe
  readonly lifecycle?: { readonly preStop: { readonly exec: { readonly command: readonly string[] } } }
  readonly resources: { readonly requests: Labels }
  readonly volumeMounts?: readonly { readonly name: string, readonly mountPath: string }[]
}

interface KubernetesObject {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string, readonly namespace: string }
  readonly data?: Labels
  readonly spec?: {
    readonly replicas?: number
    readonly clusterIP?: string
    readonly selector: Labels | { readonly matchLabels: Labels }
    readonly ports?: readonly { readonly name: string, readonly port: number, readonly targetPort: string }[]
    readonly scaleTargetRef?: { readonly apiVersion: string, readonly kind: string, readonly name: string }
    readonly minReplicas?: number
    readonly template?: {
      readonly metadata: { readonly labels: Labels }
      readonly spec: {
        readonly terminationGracePeriodSeconds: number
        readonly containers: readonly Container[]
        readonly volumes?: readonly { readonly name: string, readonly configMap?: { readonly name: string }, readonly secret?: { readonly secretName: string, readonly items: readonly { readonly key: string, readonly path: string }[] } }[]
      }
    }
  }
}

const text = await readFile(join(root, 'examples/kubernetes/gateway.yaml'), 'utf8')
const objects = [...loadAll(text, { schema: CORE_SCHEMA }), ...loadAll(await readFile(join(root, 'examples/kubernetes/encoder.yaml'), 'utf8'), { schema: CORE_SCHEMA })] as KubernetesObject[]

function the (kind: string, name: string): KubernetesObject {
  const found = objects.filter(object => object.kind === kind && object.metadata.name === name)
  if (found.length !== 1) throw new Error(`${found.length} of ${kind} ${name}`)
  return found[0]!
}

const podOf = (name: string) => the('Deployment', name).spec!.template!
const containerOf = (name: string) => podOf(name).spec.containers[0]!
const labelsIn = ({ spec }: KubernetesObject) => (spec!.selector as { matchLabels?: Labels }).matchLabels ?? spec!.selector as Labels

/** The fleet.yaml of the ConfigMap, as the gateway understands it. */
function fleetOf (map: KubernetesObject): FleetConfig {
  const { value, positions, problems } = parseYaml(map.data?.['fleet.yaml'] ?? '', {})
  if (problems.length > 0) throw new Error(JSON.stringify(problems))
  return parseConfig(value, { file: 'fleet.yaml', positions })
}

t.test('all of it is in one namespace, and each selector finds the pods that are meant', async t => {
  t.same([...new Set(objects.map(({ metadata }) => metadata.namespace))], ['fleet'])
  const selecting = objects.filter(({ kind }) => ['Deployment', 'Service', 'PodDisruptionBudget'].includes(kind))
  t.equal(selecting.length, 5)
  for (const object of selecting) {
    const { labels } = podOf(object.metadata.name).metadata
    for (const [label, value] of Object.entries(labelsIn(object))) t.equal(labels[label], value, `${object.kind} ${object.metadata.name}`)
  }
})

t.test('ports that are named are there', async t => {
  for (const name of ['fleet-gateway', 'encoder']) {
    const { ports, readinessProbe, livenessProbe, startupProbe } = containerOf(name)
    const names = ports.map(port => port.name)
    for (const { targetPort } of the('Service', name).spec!.ports!) t.ok(names.includes(targetPort), `the Service of ${name}`)
    for (const probe of [readinessProbe, livenessProbe, startupProbe]) if (probe !== undefined) t.ok(names.includes(probe.httpGet.port), `a probe of ${name}`)
  }
  t.match(containerOf('fleet-gateway'), { readinessProbe: { httpGet: { path: '/health/ready' } }, livenessProbe: { httpGet: { path: '/health/live' } } })
  const dockerfile = await readFile(join(root, 'Dockerfile'), 'utf8')
  t.match(dockerfile, new RegExp(`^EXPOSE ${containerOf('fleet-gateway').ports[0]!.containerPort}$`, 'm'))
})

t.test('what is mounted and read is there: the fleet, the secret and its keys, a place for the state', async t => {
  const { spec: { volumes = [] } } = podOf('fleet-gateway')
  const { volumeMounts = [], args = [], env = [] } = containerOf('fleet-gateway')
  const volumeAt = (path: string) => volumes.find(({ name }) => name === volumeMounts.find(({ mountPath }) => mountPath === path)?.name)
  const [, secretName, key] = /create secret generic (\S+) --from-literal=(\w+)="/.exec(text) ?? []
  const redis = env.find(({ name }) => name === 'FLEET_REDIS_URL')?.valueFrom?.secretKeyRef

  t.same(volumeMounts.map(({ name }) => name).sort(), volumes.map(({ name }) => name).sort())
  t.same(args, ['serve', '--fleet', '/etc/fleet/fleet.yaml'])
  t.ok(the('ConfigMap', volumeAt('/etc/fleet')?.configMap?.name ?? '').data?.['fleet.yaml'])
  t.match(volumeAt('/run/secrets/fleet')?.secret, { secretName, items: [{ key, path: 'secret' }] })
  t.equal(env.find(({ name }) => name === 'FLEET_SECRET_FILE')?.value, '/run/secrets/fleet/secret')
  t.match(redis, { name: secretName, optional: true })
  t.match(text, `--from-literal=${redis?.key}=redis://`)
  t.ok(volumeAt(fleetOf(the('ConfigMap', 'fleet-gateway')).registry.stateDir ?? ''))
})

t.test('its fleet.yaml is valid, finds the agent by its headless Service, and leaves a pod time to drain', async t => {
  const { agents: [agent], server } = fleetOf(the('ConfigMap', 'fleet-gateway'))
  const service = the('Service', 'encoder')
  const { lifecycle, ports, command } = containerOf('encoder')
  const sleepSeconds = Number(lifecycle?.preStop.exec.command[1])

  t.equal(agent?.dns?.name, `${service.metadata.name}.${service.metadata.namespace}.svc.cluster.local`)
  t.equal(service.spec?.clusterIP, 'None')
  t.equal(agent?.dns?.port, ports[0]?.containerPort, 'its A records name pods, so the port is theirs')
  t.match(command?.[2], `listen(${ports[0]?.containerPort})`)
  t.ok((server.drainDelay + server.drainTimeout) / 1_000 + 3 < podOf('fleet-gateway').spec.terminationGracePeriodSeconds)
  t.ok(sleepSeconds * 1_000 > (agent?.dns?.maxRefresh as number) + 5_000, 'the gateways have asked again before a pod stops serving')
  t.ok(sleepSeconds < podOf('encoder').spec.terminationGracePeriodSeconds)
})

t.test('the autoscaler scales the gateway, by a share of what it asks for', async t => {
  const { scaleTargetRef, minReplicas } = the('HorizontalPodAutoscaler', 'fleet-gateway').spec!
  const target = the(scaleTargetRef!.kind, scaleTargetRef!.name)

  t.equal(target.apiVersion, scaleTargetRef!.apiVersion)
  t.equal(target.spec?.replicas, minReplicas)
  t.ok(containerOf('fleet-gateway').resources.requests['cpu'])
})
