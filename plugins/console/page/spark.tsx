/**
 * A line of a few samples, without axes: its shape is all it tells, the figure stands beside it.
 */

const width = 96
const height = 24

/** @param length how many samples fill the whole width */
export function Spark ({ values, length }: { values: readonly number[], length: number }) {
  const most = Math.max(...values, 0)
  if (most === 0) return <svg class='spark' viewBox={`0 0 ${width} ${height}`} width={width} height={height} aria-hidden='true'><path class='spark-idle' d={`M0 ${height - 1.5}H${width}`} /></svg>
  const step = width / (length - 1)
  const start = width - (values.length - 1) * step
  const points = values.map((value, index) => `${(start + index * step).toFixed(1)} ${(height - 1.5 - value / most * (height - 4)).toFixed(1)}`)
  return (
    <svg class='spark' viewBox={`0 0 ${width} ${height}`} width={width} height={height} aria-hidden='true'>
      <path class='spark-area' d={`M${start.toFixed(1)} ${height}L${points.join('L')}L${width} ${height}z`} />
      <path class='spark-line' d={`M${points.join('L')}`} />
    </svg>
  )
}
