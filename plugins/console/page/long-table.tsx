/**
 * A table of thousands of rows of which only those in sight are drawn. The page scrolls, not the table, so that a phone's thumb and a
 * keyboard's keys do what they do anywhere.
 */
import type { ComponentChildren } from 'preact'
import { useLayoutEffect, useRef, useState } from 'preact/hooks'

export interface Column<Item> {
  readonly key: string
  readonly title: string
  /** What goes into the cell. */
  readonly cell: (item: Item) => ComponentChildren
  /** Ascending order; a column without it can't be sorted by. */
  readonly compare?: (a: Item, b: Item) => number
  /** Figures stand to the right, and the greatest is what is looked for. */
  readonly isFigure?: boolean
  /** Not in sight, and read out. */
  readonly isTitleHidden?: boolean
}

export interface Order { key: string, isDescending: boolean }

export interface LongTableProps<Item> {
  /** What is in the table, for who can't see it. */
  readonly label: string
  /** Names the grid of columns in the style sheet. */
  readonly kind: string
  readonly columns: readonly Column<Item>[]
  readonly items: readonly Item[]
  readonly keyOf: (item: Item) => string
  readonly order?: Order
  readonly onOrder?: (order: Order) => void
  /** Heights of a row, in pixels: on a wide page and on a narrow one. */
  readonly heights: readonly [wide: number, narrow: number]
  /** Said where there is nothing to show. */
  readonly empty: ComponentChildren
}

const isNarrow = matchMedia('(max-width: 760px)')
/** So many rows are drawn beyond each edge. */
const spare = 8

export function LongTable<Item> ({ label, kind, columns, items, keyOf, order, onOrder, heights, empty }: LongTableProps<Item>) {
  const body = useRef<HTMLDivElement>(null)
  const [sight, setSight] = useState({ first: 0, count: 40, rowHeight: heights[isNarrow.matches ? 1 : 0] })

  useLayoutEffect(() => {
    let frame = 0
    const look = () => {
      frame = 0
      const rowHeight = heights[isNarrow.matches ? 1 : 0]
      const top = body.current?.getBoundingClientRect().top ?? 0
      const first = Math.max(Math.floor(-top / rowHeight) - spare, 0)
      const count = Math.ceil(innerHeight / rowHeight) + 2 * spare
      setSight(sight => sight.first === first && sight.count === count && sight.rowHeight === rowHeight ? sight : { first, count, rowHeight })
    }
    const lookSoon = () => { if (frame === 0) frame = requestAnimationFrame(look) }
    look()
    addEventListener('scroll', lookSoon, { passive: true })
    addEventListener('resize', lookSoon)
    return () => {
      cancelAnimationFrame(frame)
      removeEventListener('scroll', lookSoon)
      removeEventListener('resize', lookSoon)
    }
  }, [])

  const { rowHeight } = sight
  const first = Math.min(sight.first, Math.max(items.length - 1, 0))
  const shown = items.slice(first, first + sight.count)

  return (
    <div role='table' aria-label={label} aria-rowcount={items.length + 1} class={`table table-${kind}`}>
      <div role='rowgroup' class='table-head'>
        <div role='row' aria-rowindex={1} class='row'>
          {columns.map(column => <Header key={column.key} column={column} order={order} onOrder={onOrder} />)}
        </div>
      </div>
      <div role='rowgroup' class='table-body' ref={body} style={{ height: `${items.length * rowHeight}px` }}>
        {shown.map((item, index) => (
          <div role='row' aria-rowindex={first + index + 2} class='row' key={keyOf(item)} style={{ transform: `translateY(${(first + index) * rowHeight}px)`, height: `${rowHeight}px` }}>
            {columns.map(({ key, title, cell, isFigure }) => <div role='cell' key={key} class={`cell cell-${key}${isFigure ? ' figure' : ''}`} data-title={title}>{cell(item)}</div>)}
          </div>
        ))}
      </div>
      {items.length === 0 && <div class='empty'>{empty}</div>}
    </div>
  )
}

function Header<Item> ({ column, order, onOrder }: { column: Column<Item>, order: Order | undefined, onOrder: ((order: Order) => void) | undefined }) {
  const { key, title, compare, isFigure, isTitleHidden } = column
  const isOrdered = order?.key === key
  const sort = !isOrdered ? 'none' : order.isDescending ? 'descending' : 'ascending'
  if (compare === undefined || onOrder === undefined) return <div role='columnheader' class={`cell cell-${key}${isFigure ? ' figure' : ''}`}>{isTitleHidden ? <span class='unseen'>{title}</span> : title}</div>
  return (
    <div role='columnheader' aria-sort={sort} class={`cell cell-${key}${isFigure ? ' figure' : ''}`}>
      <button type='button' class='sort' onClick={() => onOrder({ key, isDescending: isOrdered ? !order.isDescending : isFigure === true })}>
        {title}<span class='sort-arrow' aria-hidden='true'>{isOrdered ? order.isDescending ? '↓' : '↑' : ''}</span>
      </button>
    </div>
  )
}

/** The items in the order that is asked for; equal ones stay in the order in which they are. */
export function ordered<Item> (items: Item[], columns: readonly Column<Item>[], { key, isDescending }: Order): Item[] {
  const compare = columns.find(column => column.key === key)?.compare
  if (compare === undefined) return items
  return items.sort((a, b) => isDescending ? compare(b, a) : compare(a, b))
}
