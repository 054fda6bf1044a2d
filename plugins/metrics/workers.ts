/**
 * Expositions of several workers as one: every series gets a label that says whose it is, so that nothing has to be known of what may be added up.
 */

/** What one worker has. */
export interface WorkerText {
  readonly worker: number
  /** In Prometheus's format. */
  readonly text: string
}

interface Family {
  /** HELP and TYPE. */
  readonly head: string[]
  readonly samples: string[]
}

/** Each family once, with the samples of all workers under it. */
export function joinTexts (texts: readonly WorkerText[]): string {
  const families = new Map<string, Family>()
  for (const { worker, text } of texts) addText(families, text, `worker="${worker}"`)
  return [...families.values()].map(({ head, samples }) => `${[...head, ...samples].join('\n')}\n`).join('')
}

function addText (families: Map<string, Family>, text: string, label: string): void {
  let family: Family = { head: [], samples: [] }
  const heads = new Set<string>()
  for (const line of text.split('\n')) {
    if (line === '') continue
    const [, kind = '', name = ''] = /^# (HELP|TYPE) (\S+)/.exec(line) ?? []
    if (kind === '') {
      if (!line.startsWith('#')) family.samples.push(labelled(line, label))
      continue
    }
    const known = families.get(name)
    family = known ?? { head: [], samples: [] }
    if (known === undefined) families.set(name, family)
    if (known === undefined || heads.has(name)) family.head.push(line)
    if (known === undefined) heads.add(name)
  }
}

/** `name{a="b"} 1` or `name 1`, with a label more. */
function labelled (sample: string, label: string): string {
  const at = sample.search(/[{ ]/)
  const name = sample.slice(0, at)
  return sample[at] === '{' ? `${name}{${label}${sample[at + 1] === '}' ? '' : ','}${sample.slice(at + 1)}` : `${name}{${label}}${sample.slice(at)}`
}
