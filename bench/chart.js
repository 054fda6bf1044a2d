/** Bar charts as plain SVG, legible on light and on dark. Pure, so that test/bench.test.ts can check it. */

const escape = text => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

const width = 760
const labelWidth = 190
const valueWidth = 150
const rowHeight = 24
const titleHeight = 34

/** Greys in the middle for those who ignore the media query. */
const style = `text { font: 13px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #424a53 }
.ours { font-weight: 600 }
.bar { fill: #8c959f }
.bar.ours { fill: #1f75cb }
@media (prefers-color-scheme: dark) {
  text { fill: #b1bac4 }
  .title { fill: #d0d7de }
  .bar { fill: #6e7681 }
  .bar.ours { fill: #58a6ff }
}`

/**
 * Panels of horizontal bars, one below the other; each panel has a scale of its own that begins at 0.
 * @param {string} title read out by screen readers
 * @param {readonly { title: string, bars: readonly { name: string, value: number, label: string, ours?: boolean }[] }[]} panels
 */
export function barChart (title, panels) {
  const parts = []
  let y = 0
  for (const panel of panels) {
    const longest = Math.max(...panel.bars.map(({ value }) => value))
    parts.push(`<text class="title" x="0" y="${y + 20}">${escape(panel.title)}</text>`)
    y += titleHeight
    for (const { name, value, label, ours = false } of panel.bars) {
      const length = longest > 0 ? Math.max(1, value / longest * (width - labelWidth - valueWidth)) : 1
      const kind = ours ? ' ours' : ''
      parts.push(
        `<text class="name${kind}" x="${labelWidth - 10}" y="${y + 15}" text-anchor="end">${escape(name)}</text>`,
        `<rect class="bar${kind}" x="${labelWidth}" y="${y + 3}" width="${length.toFixed(1)}" height="${rowHeight - 7}" rx="2"/>`,
        `<text class="value${kind}" x="${(labelWidth + length + 8).toFixed(1)}" y="${y + 15}">${escape(label)}</text>`
      )
      y += rowHeight
    }
    y += 14
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y}" viewBox="0 0 ${width} ${y}" role="img" aria-label="${escape(title)}">`,
    `<title>${escape(title)}</title>`,
    `<style>${style}</style>`,
    ...parts,
    '</svg>',
    ''
  ].join('\n')
}
