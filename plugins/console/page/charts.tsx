/**
 * An agent's last fifteen minutes, drawn by uPlot.
 */
import { signal } from '@preact/signals'
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import UPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import type { AgentHistory } from '../wire.ts'
import { samples } from './fleet.ts'
import { formatMs, formatRate, formatRatio, nothing } from '../../../src/figures.ts'
import { ask } from './gateway.ts'
import { isDark } from './theme.ts'

interface Line {
  readonly title: string
  /** Of the style sheet. */
  readonly colour: string
  readonly values: (history: AgentHistory) => (number | null)[]
  readonly isFilled?: boolean
}

interface Figure {
  readonly title: string
  readonly lines: readonly Line[]
  readonly format: (value: number) => string
  /** The axis goes to this at least. */
  readonly least: number
}

const figures: readonly Figure[] = [
  {
    title: 'Requests a second',
    format: formatRate,
    least: 1,
    lines: [{ title: 'requests', colour: '--chart-1', isFilled: true, values: ({ requests, interval_seconds: seconds }) => requests.map(count => count / seconds) }]
  },
  {
    title: 'Errors',
    format: formatRatio,
    least: 0.05,
    lines: [{ title: 'errors', colour: '--bad', isFilled: true, values: ({ requests, errors }) => requests.map((count, index) => count === 0 ? null : Math.min(errors[index]! / count, 1)) }]
  },
  {
    title: 'Latency',
    format: value => value === 0 ? '0' : formatMs(value),
    least: 1,
    lines: [
      { title: 'p99', colour: '--chart-2', values: ({ requests, p99 }) => p99.map((ms, index) => requests[index] === 0 ? null : ms) },
      { title: 'p50', colour: '--chart-1', values: ({ requests, p50 }) => p50.map((ms, index) => requests[index] === 0 ? null : ms) }
    ]
  }
]

/** Where the pointer is, on all charts of the page. */
const sync = UPlot.sync('history')
const failure = signal('')

export function Charts ({ agent }: { agent: string }) {
  const [history, setHistory] = useState<AgentHistory | null>(null)
  const taken = samples.value
  useEffect(() => {
    let isOver = false
    ask<AgentHistory>('GET', `console/agents/${encodeURIComponent(agent)}/history`).then(
      found => { if (!isOver) setHistory(found); failure.value = '' },
      (error: unknown) => { failure.value = String((error as Error).message) }
    )
    return () => { isOver = true }
  }, [agent, taken])
  if (history === null) return <p class='aside charts-wait'>{failure.value === '' ? 'Reading the history…' : failure.value}</p>
  return <div class='charts'>{figures.map(figure => <Chart key={figure.title} figure={figure} history={history} />)}</div>
}

const chartHeight = 150

function Chart ({ figure, history }: { figure: Figure, history: AgentHistory }) {
  const place = useRef<HTMLDivElement>(null)
  const plot = useRef<UPlot | null>(null)
  const { title, lines, format } = figure
  const data = dataOf(figure, history)
  const latest = lines.map(({ title: name }, index) => `${lines.length > 1 ? `${name} ` : ''}${shown(format, data[index + 1]!.at(-1))}`).join(', ')
  const peak = Math.max(...data.slice(1).flatMap(values => values.map(value => value ?? 0)), 0)

  useLayoutEffect(() => {
    const element = place.current!
    plot.current = new UPlot(optionsOf(figure, element), dataOf(figure, history) as UPlot.AlignedData, element)
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: chartHeight }))
    watch.observe(element)
    return () => {
      watch.disconnect()
      plot.current?.destroy()
    }
  }, [isDark.value])
  useLayoutEffect(() => plot.current?.setData(data as UPlot.AlignedData), [history])

  return (
    <figure class='chart'>
      <figcaption>
        <h2>{title}</h2>
        <span class='chart-now'>{lines.map((line, index) => <span key={line.title} class='legend'><i style={{ background: `var(${line.colour})` }} />{lines.length > 1 && line.title} <b>{shown(format, data[index + 1]!.at(-1))}</b></span>)}</span>
      </figcaption>
      <div ref={place} role='img' aria-label={`${title} over the last fifteen minutes: now ${latest}, at most ${format(peak)}`} />
    </figure>
  )
}

function shown (format: (value: number) => string, value: number | null | undefined): string {
  return value === null || value === undefined ? nothing : format(value)
}

/** The last fifteen minutes, also where the gateway is younger: seconds, then the lines. */
function dataOf ({ lines }: Figure, history: AgentHistory): (number | null)[][] {
  const { interval_seconds: seconds, ended_at: endedAt, requests } = history
  const count = 15 * 60 / seconds
  const missing = Math.max(count - requests.length, 0)
  const times = Array.from({ length: count }, (_, index) => endedAt / 1_000 - (count - 1 - index) * seconds)
  return [times, ...lines.map(line => [...new Array<null>(missing).fill(null), ...line.values(history)])]
}

function optionsOf ({ lines, format, least }: Figure, element: HTMLElement): UPlot.Options {
  const colour = (name: string) => { // a canvas knows neither variables nor light-dark()
    element.style.color = `var(${name})`
    const resolved = getComputedStyle(element).color
    element.style.color = ''
    return resolved
  }
  const axis: UPlot.Axis = { stroke: colour('--muted'), font: '11px system-ui', grid: { stroke: colour('--line-soft'), width: 1 }, ticks: { show: false } }
  return {
    width: element.clientWidth,
    height: chartHeight,
    padding: [8, 18, 0, 0],
    cursor: { sync: { key: sync.key }, points: { size: 6 }, drag: { x: false, y: false } },
    legend: { show: false },
    scales: { x: { time: true }, y: { range: (_plot, _min, max) => [0, Math.max(max * 1.1, least)] } },
    axes: [
      { ...axis, space: 70, size: 24, values: (_plot, splits) => splits.map(at => new Date(at * 1_000).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' })) },
      { ...axis, space: 32, size: 58, values: (_plot, splits) => splits.map(format) }
    ],
    series: [{}, ...lines.map(({ title, colour: name, isFilled }): UPlot.Series => {
      const stroke = colour(name)
      return { label: title, stroke, width: 1.5, points: { show: false }, ...(isFilled && { fill: `color-mix(in srgb, ${stroke} 14%, transparent)` }) }
    })]
  }
}
