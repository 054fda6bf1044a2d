/**
 * What changes the fleet: registration, drain and removal. The gateway judges; this asks, and shows what it says.
 */
import { useState } from 'preact/hooks'
import { closeDialog, confirm, Dialog, dialog, notice } from './dialogs.tsx'
import { addressOfInstance } from '../../../src/figures.ts'
import { agents, type FleetInstance } from './fleet.ts'
import { ask, Refusal } from './gateway.ts'

interface Answer { message: string, note?: string, instance?: { id: string } }

const said = ({ message, note }: Answer) => note === undefined ? `${capital(message)}.` : `${capital(message)}. ${note}.`
const capital = (text: string) => text.charAt(0).toUpperCase() + text.slice(1)
const pathOf = ({ agent, id }: FleetInstance) => `registry/${encodeURIComponent(agent)}/instances/${encodeURIComponent(id)}`

export function askToDrain (instance: FleetInstance): void {
  const address = addressOfInstance(instance.facts)
  confirm({
    title: `Drain ${address}?`,
    text: <p>It takes no new requests, finishes the {instance.row[0]} that {instance.row[0] === 1 ? 'is' : 'are'} in flight, and then leaves <strong>{instance.agent}</strong>.</p>,
    action: 'Drain',
    act: async () => said(await ask<Answer>('DELETE', `${pathOf(instance)}?drain=true`))
  })
}

export function askToRemove (instance: FleetInstance): void {
  const address = addressOfInstance(instance.facts)
  const isLast = agents.get(instance.agent)?.instances.size === 1
  confirm({
    title: `Remove ${address}?`,
    text: (
      <>
        <p>It leaves <strong>{instance.agent}</strong> at once; what is in flight on it may still finish.</p>
        {isLast && <p><strong>It is the last instance:</strong> requests to the agent are answered with 503 from then on.</p>}
        {instance.facts.source === 'file' && <p>It is in fleet.yaml, so it comes back when that file changes or the gateway restarts.</p>}
        {instance.facts.source === 'dns' && <p>DNS names it, so it comes back when DNS named it no more in between, fleet.yaml changes or the gateway restarts.</p>}
      </>
    ),
    action: 'Remove',
    isDangerous: true,
    act: async () => said(await ask<Answer>('DELETE', pathOf(instance)))
  })
}

export function askToRemoveAgent (name: string): void {
  const count = agents.get(name)?.instances.size ?? 0
  confirm({
    title: `Remove ${name}?`,
    text: <p>The agent leaves the fleet with {count === 1 ? 'its one instance' : `all ${count} instances`}. Requests to it are answered with 404 from then on.</p>,
    action: 'Remove agent',
    isDangerous: true,
    act: async () => {
      const answer = said(await ask<Answer>('DELETE', `registry/${encodeURIComponent(name)}`))
      location.hash = '#/'
      return answer
    }
  })
}

/** @param name of the agent that gets another instance; empty for any */
export function openRegistration (name = ''): void {
  dialog.value = () => <Registration name={name} />
}

interface Field {
  readonly name: string
  readonly title: string
  readonly hint?: string
  readonly type?: 'number'
  readonly isLong?: true
  readonly options?: readonly string[]
  readonly initial?: string
  /** The body's value for what was typed. @throws Refusal when it can't be one */
  readonly read?: (text: string) => unknown
}

const asNumber = (text: string) => Number.isFinite(Number(text)) ? Number(text) : text
const asList = (text: string) => text.split(',').map(part => part.trim()).filter(part => part !== '')

const fields: readonly Field[] = [
  { name: 'name', title: 'Agent' },
  { name: 'host', title: 'Host', initial: 'localhost' },
  { name: 'port', title: 'Port', type: 'number', read: asNumber },
  { name: 'protocol', title: 'Protocol', options: ['http', 'https'], initial: 'http' },
  { name: 'weight', title: 'Weight', type: 'number', read: asNumber },
  { name: 'aliases', title: 'Other names', hint: 'separated by commas', read: asList },
  { name: 'ttl', title: 'Lease', hint: 'such as 30s; none: until removed' },
  { name: 'metadata', title: 'Metadata', hint: 'a JSON object', isLong: true, read: asJson }
]

function asJson (text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    throw new Refusal(0, '', [{ path: 'metadata', message: 'is not JSON' }])
  }
}

function Registration ({ name }: { name: string }) {
  const [errors, setErrors] = useState<Record<string, string>>({})
  const [failure, setFailure] = useState('')
  const [isBusy, setBusy] = useState(false)

  const send = async (form: HTMLFormElement) => {
    const given = new FormData(form)
    setBusy(true)
    setErrors({})
    setFailure('')
    try {
      const body: Record<string, unknown> = {}
      for (const { name: field, read = (text: string) => text } of fields) {
        const text = String(given.get(field) ?? '').trim()
        if (text !== '') body[field] = read(text)
      }
      const answer = await ask<Answer>('POST', 'registry/register', body)
      notice.value = { text: `${capital(answer.message)}.`, isBad: false }
      closeDialog()
    } catch (error) {
      const refusal = error instanceof Refusal ? error : new Refusal(0, String(error))
      const beside: Record<string, string> = {}
      const elsewhere: string[] = []
      for (const { path, message } of refusal.fields) {
        const field = fields.find(({ name }) => path === name || path.startsWith(`${name}.`) || path.startsWith(`${name}[`))
        if (field === undefined) elsewhere.push(`${path} ${message}`.trim())
        else beside[field.name] ??= path === field.name ? message : `${path} ${message}`
      }
      setErrors(beside)
      setFailure(refusal.fields.length === 0 ? refusal.message : elsewhere.join('; '))
      setBusy(false)
      const first = fields.find(({ name }) => beside[name] !== undefined)
      if (first !== undefined) (form.elements.namedItem(first.name) as HTMLElement | null)?.focus()
    }
  }

  return (
    <Dialog title={name === '' ? 'Register an instance' : `Another instance of ${name}`}>
      <form noValidate onSubmit={event => { event.preventDefault(); void send(event.currentTarget) }}>
        <div class='dialog-body fields'>
          {fields.map(field => <RegistrationField key={field.name} field={field} initial={field.name === 'name' ? name : field.initial ?? ''} error={errors[field.name]} />)}
        </div>
        {failure !== '' && <p class='problem' role='alert'>{failure}</p>}
        <footer class='dialog-foot'>
          <button type='button' class='button' onClick={closeDialog}>Cancel</button>
          <button type='submit' class='button is-main' disabled={isBusy}>{isBusy ? 'Working…' : 'Register'}</button>
        </footer>
      </form>
    </Dialog>
  )
}

function RegistrationField ({ field, initial, error }: { field: Field, initial: string, error: string | undefined }) {
  const { name, title, hint, type = 'text', isLong, options } = field
  const id = `register-${name}`
  const described = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(' ')
  const common = { id, name, autoComplete: 'off', 'aria-invalid': error !== undefined, ...(described !== '' && { 'aria-describedby': described }) }
  return (
    <div class={`field field-${name}`}>
      <label for={id}>{title}</label>
      {options
        ? <select {...common}>{options.map(option => <option key={option} value={option} selected={option === initial}>{option}</option>)}</select>
        : isLong
          ? <textarea {...common} rows={2} spellcheck={false} defaultValue={initial} />
          : <input {...common} type='text' inputMode={type === 'number' ? 'numeric' : 'text'} spellcheck={false} defaultValue={initial} />}
      {hint && <p class='hint' id={`${id}-hint`}>{hint}</p>}
      {error && <p class='field-error' id={`${id}-error`}>{error}</p>}
    </div>
  )
}
