/**
 * Light or dark: as the system has it, unless somebody chose for this browser.
 */
import { computed, effect, signal } from '@preact/signals'

type Theme = 'system' | 'light' | 'dark'

const key = 'fleet-console-theme'
const systemDark = matchMedia('(prefers-color-scheme: dark)')
const isSystemDark = signal(systemDark.matches)
systemDark.addEventListener('change', () => { isSystemDark.value = systemDark.matches })

export const theme = signal<Theme>((localStorage.getItem(key) as Theme | null) ?? 'system')
export const isDark = computed(() => theme.value === 'dark' || (theme.value === 'system' && isSystemDark.value))

effect(() => {
  const { dataset } = document.documentElement
  if (theme.value === 'system') delete dataset['theme']
  else dataset['theme'] = theme.value
})

/** Keeps the choice. */
export function chooseTheme (chosen: Theme): void {
  theme.value = chosen
  if (chosen === 'system') localStorage.removeItem(key)
  else localStorage.setItem(key, chosen)
}
