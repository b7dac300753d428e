// All charts: one window of time, one cursor.

import { Chart } from "./chart.js";
import { clock, span } from "./format.js";
import { CHARTS } from "./specs.js";

const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -60, PageDown: 60, Home: -Infinity, End: Infinity };
const LEAST_SECONDS = 60;

export class Charts {
  /** `reading` tells at which time figures are read, `announce(text)` reads one chart out. */
  constructor(root, history, reading, announce) {
    Object.assign(this, { history, reading, announce, help: reading.textContent, seconds: 900, from: 0, to: 0, pinned: null });
    this.charts = CHARTS.map((spec) => new Chart(spec, (chart) => this.#pointed(chart)));
    this.root = root;
    root.append(...this.charts.map((chart) => chart.root));
    for (const chart of this.charts) {
      chart.draw();
      chart.plot.addEventListener("keydown", (event) => this.#key(event, chart));
      chart.plot.addEventListener("blur", () => this.#pin(null));
    }
    this.#reveal(false);
    addEventListener("themechange", () => this.charts.forEach((chart) => chart.redraw()));
  }

  /** Show the history up to its newest point. */
  update(answer) {
    this.answer = answer ?? this.answer;
    const { times } = this.history;
    if (!this.answer) return;
    this.#reveal(this.answer.generates);
    if (!times.length) return;
    this.to = times.at(-1);
    // A server that has just started is shown closer, until it fills the window.
    this.from = Math.max(this.to - this.seconds, Math.min(times[0], this.to - LEAST_SECONDS));
    for (const chart of this.charts) {
      chart.update(this.history, this.from, this.to, chart.spec.line?.(this.answer));
      chart.describe(`Now: ${chart.read(times.length - 1)}`);
    }
    if (this.pinned != null) this.#pin(Math.max(this.pinned, this.from));
    else this.#read();
  }

  /** Show so many seconds. */
  show(seconds) {
    this.seconds = seconds;
    this.update();
  }

  /** Show the charts of generation, too, or not. */
  #reveal(generates) {
    this.root.classList.toggle("generates", generates);
    for (const chart of this.charts) chart.root.hidden = Boolean(chart.spec.generates) && !generates;
  }

  #pointed(chart) {
    const { left, idx } = chart.uplot.cursor;
    this.index = left >= 0 && idx != null ? idx : null;
    if (this.pinned == null) this.#read();
  }

  #key(event, chart) {
    const { times } = this.history;
    if (event.key === "Escape") this.#pin(null);
    else if (times.length && event.key in STEPS) {
      // Point by point, as each stands for its second.
      const step = STEPS[event.key] * (event.shiftKey ? 10 : 1);
      const index = this.#nearest(this.pinned ?? this.to) + step;
      this.#pin(times[Math.min(Math.max(index, this.#nearest(this.from)), times.length - 1)]);
      this.announce(`${clock(this.pinned)}: ${chart.read(this.index)}`);
    } else return;
    event.preventDefault();
  }

  /** Keep the cursor at a time, whatever comes in. */
  #pin(time) {
    const was = this.pinned;
    this.pinned = time;
    if (time == null && was == null) return;
    for (const chart of this.charts) chart.point(time);
    this.index = time == null ? null : this.#nearest(time);
    this.#read();
  }

  #nearest(time) {
    const { times } = this.history;
    const after = times.findIndex((other) => other >= time);
    if (after <= 0) return after < 0 ? times.length - 1 : 0;
    return times[after] - time < time - times[after - 1] ? after : after - 1;
  }

  #read() {
    const { times } = this.history;
    const index = Math.min(this.index ?? times.length - 1, times.length - 1);
    for (const chart of this.charts) chart.read(index);
    this.reading.textContent =
      this.index == null ? this.help : `Read at ${clock(times[index])}, ${span(this.to - times[index])} before the newest point.`;
  }
}
