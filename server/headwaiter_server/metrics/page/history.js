// The points of one model that the page holds: a column of times and one for each figure, as uPlot takes them.

export const SPAN_SECONDS = 900;

export class History {
  constructor() {
    this.clear();
  }

  clear() {
    this.times = [];
    this.columns = new Map();
    this.restarts = [];
  }

  /** The figure `key` of every point; null where it is not known. */
  column(key) {
    return this.columns.get(key) ?? this.times.map(() => null);
  }

  /** Add points that are newer than all others: `times`, and a list of the same length for every figure. */
  append(times, figures) {
    for (const key of Object.keys(figures)) {
      if (!this.columns.has(key)) this.columns.set(key, this.times.map(() => null));
    }
    // A server's clock that was set back would otherwise fold the lines.
    const newest = this.times.at(-1) ?? -Infinity;
    const first = times.findIndex((time) => time > newest);
    if (first < 0) return;
    this.times.push(...times.slice(first));
    for (const [key, column] of this.columns) {
      column.push(...(figures[key]?.slice(first) ?? times.slice(first).map(() => null)));
    }
    this.#trim();
  }

  /** Note that another server answers from here on: lines end, and a mark stands where it came. */
  restarted(time) {
    const last = this.times.at(-1);
    if (last === undefined) return;
    this.restarts.push(time);
    this.times.push(last + 0.001);
    for (const column of this.columns.values()) column.push(null);
  }

  #trim() {
    const oldest = this.times.at(-1) - SPAN_SECONDS;
    const gone = this.times.findIndex((time) => time >= oldest);
    if (gone > 0) {
      this.times.splice(0, gone);
      for (const column of this.columns.values()) column.splice(0, gone);
    }
    this.restarts = this.restarts.filter((time) => time >= oldest);
  }
}
