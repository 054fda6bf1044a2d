/**
 * Asks for the token. It is kept for this tab, and forgotten with it.
 */
import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import { connectNow, connection } from './connection.ts'
import { keepToken } from './gateway.ts'

export function SignIn ({ reason }: { reason: string | null }) {
  const field = useRef<HTMLInputElement>(null)
  const [isEmpty, setEmpty] = useState(false)
  useLayoutEffect(() => field.current!.focus(), [])
  const signIn = () => {
    const text = field.current!.value.trim()
    setEmpty(text === '')
    if (text === '') return field.current!.focus()
    keepToken(text)
    connection.value = { state: 'connecting' }
    connectNow()
  }
  const problem = isEmpty ? 'Enter a token.' : reason
  return (
    <main class='sign-in'>
      <form noValidate onSubmit={event => { event.preventDefault(); signIn() }}>
        <h1><Logo /> Fleet Gateway</h1>
        <div class='field'>
          <label for='token'>Token</label>
          <input ref={field} id='token' type='password' autoComplete='off' spellcheck={false} aria-invalid={problem !== null} aria-describedby={problem === null ? 'token-hint' : 'token-error token-hint'} />
          {problem !== null && <p class='field-error' id='token-error' role='alert'>{problem}</p>}
          <p class='hint' id='token-hint'>The fleet secret, or a key with the scope <code>read</code>; changes need <code>register</code> or <code>admin</code>. It is kept until this tab is closed.</p>
        </div>
        <button type='submit' class='button is-main'>Sign in</button>
      </form>
    </main>
  )
}

export function Logo () {
  return <svg class='logo' viewBox='0 0 16 16' width='22' height='22' aria-hidden='true'><rect width='16' height='16' rx='4' /><path d='M4.5 12V4.2h7.2M4.5 8h5.4' /></svg>
}
