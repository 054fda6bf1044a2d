/**
 * Dialogs: one at a time, over the page, modal. The browser keeps the focus inside and gives it back; Escape leaves.
 */
import { signal } from '@preact/signals'
import type { ComponentChildren } from 'preact'
import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import { Refusal } from './gateway.ts'

/** What is said at the foot of the page, and aloud. */
export const notice = signal<{ text: string, isBad: boolean } | null>(null)

/** The dialog that is open. */
export const dialog = signal<(() => ComponentChildren) | null>(null)

export function closeDialog (): void {
  dialog.value = null
}

export function DialogHost () {
  const render = dialog.value
  return render === null ? null : <>{render()}</>
}

export function Dialog ({ title, kind = 'box', children }: { title: string, kind?: 'box' | 'drawer', children: ComponentChildren }) {
  const element = useRef<HTMLDialogElement>(null)
  useLayoutEffect(() => {
    const before = document.activeElement
    const opened = element.current!
    opened.showModal()
    return () => {
      opened.close() // while it is open, nothing outside can have the focus
      if (before instanceof HTMLElement && before.isConnected) before.focus()
    }
  }, [])
  return (
    <dialog ref={element} class={`dialog dialog-${kind}`} aria-labelledby='dialog-title' onClose={event => { if (event.currentTarget.isConnected) closeDialog() }} onClick={event => { if (event.target === element.current) element.current?.close() }}>
      <div class='dialog-inside'>
        <header class='dialog-head'>
          <h2 id='dialog-title'>{title}</h2>
          <button type='button' class='icon-button' aria-label='Close' onClick={() => element.current!.close()}><svg viewBox='0 0 16 16' width='16' height='16' aria-hidden='true'><path d='M3 3l10 10M13 3L3 13' /></svg></button>
        </header>
        {children}
      </div>
    </dialog>
  )
}

export interface Question {
  readonly title: string
  /** What will happen. */
  readonly text: ComponentChildren
  /** What the button says. */
  readonly action: string
  readonly isDangerous?: boolean
  /** Gives what to say when it is done. */
  readonly act: () => Promise<string>
}

/** Asks before something is done, and says what came of it. */
export function confirm (question: Question): void {
  dialog.value = () => <Confirmation {...question} />
}

function Confirmation ({ title, text, action, isDangerous = false, act }: Question) {
  const [failure, setFailure] = useState('')
  const [isBusy, setBusy] = useState(false)
  const run = async () => {
    setBusy(true)
    setFailure('')
    try {
      notice.value = { text: await act(), isBad: false }
      closeDialog()
    } catch (error) {
      setFailure(error instanceof Refusal ? error.message : String(error))
      setBusy(false)
    }
  }
  return (
    <Dialog title={title}>
      <div class='dialog-body'>{text}</div>
      {failure !== '' && <p class='problem' role='alert'>{failure}</p>}
      <footer class='dialog-foot'>
        <button type='button' class='button' onClick={closeDialog}>Cancel</button>
        <button type='button' class={`button ${isDangerous ? 'is-dangerous' : 'is-main'}`} disabled={isBusy} onClick={() => { void run() }}>{isBusy ? 'Working…' : action}</button>
      </footer>
    </Dialog>
  )
}
