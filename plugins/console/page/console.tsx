/**
 * Where the page begins.
 */
import { render } from 'preact'
import { App } from './app.tsx'
import { stayConnected } from './connection.ts'
import './style.css'

render(<App />, document.getElementById('app')!)
void stayConnected()
