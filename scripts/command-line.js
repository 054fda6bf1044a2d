/**
 * docs/command-line.md: every command with its arguments, flags and examples, from the program itself.
 */
import { readFile } from 'node:fs/promises'
import { createProgram } from '../dist/src/cli/program.js'

const template = new URL('command-line.template.md', import.meta.url)

/** Where the commands go in the template. */
const placeholder = '<!-- commands -->'

/** Nothing is run, so there is nothing to read from and to write to. */
const nowhere = { self: 'fleet-gateway', env: { NO_COLOR: '1' }, stdin: {}, stdout: { columns: 100 }, stderr: { columns: 100 } }

/** Commands that do something: those below it, where it has some. */
function leaves (command) {
  return command.commands.length === 0 ? [command] : command.commands.flatMap(leaves)
}

function pathOf (command) {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`
}

function section (command) {
  const help = command.createHelp()
  const rows = [
    ...help.visibleArguments(command).map(argument => [`\`${help.argumentTerm(argument)}\``, help.argumentDescription(argument)]),
    ...help.visibleOptions(command).filter(option => option.long !== '--help').map(option => [`\`${option.flags}\``, help.optionDescription(option)])
  ]
  return [
    `## ${pathOf(command)}`,
    '',
    `${sentence(help.commandDescription(command))}`,
    '',
    '```text',
    `${pathOf(command)} ${command.usage()}`,
    '```',
    '',
    '| | |',
    '|---|---|',
    ...rows.map(([term, description]) => `| ${term.replaceAll('|', '\\|')} | ${description.replaceAll('|', '\\|')} |`),
    '',
    '```text',
    ...examplesOf(command),
    '```'
  ].join('\n')
}

/** The help's last part, as a person would see it. */
function examplesOf (command) {
  const lines = []
  command.configureOutput({ writeOut: text => lines.push(...text.split('\n')) }).outputHelp()
  const start = lines.indexOf('Examples:')
  return lines.slice(start + 1).filter(line => line !== '').map(line => line.replace(/^ {2}/, ''))
}

function sentence (text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`
}

export default {
  file: 'docs/command-line.md',
  async render () {
    const { commands: all } = await createProgram(nowhere)
    const commands = all.flatMap(leaves).map(section)
    return (await readFile(template, 'utf8')).replace(placeholder, () => commands.join('\n\n'))
  }
}
