/** Which environment variables of ours the program reads: they are names in its code there, and in its texts only what it says of them. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'

/** The `FLEET_…` names in the code below a folder, outside of texts and comments. */
export function fleetVariables (folder: string): ReadonlySet<string> {
  const names = new Set<string>()
  function visit (node: ts.Node): void {
    const isKey = ts.isIdentifier(node) || (ts.isStringLiteral(node) && ts.isElementAccessExpression(node.parent))
    if (isKey && node.text.startsWith('FLEET_')) names.add(node.text)
    ts.forEachChild(node, visit)
  }
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts'))) {
    visit(ts.createSourceFile(name, readFileSync(join(folder, name), 'utf8'), ts.ScriptTarget.ESNext, true))
  }
  return names
}
