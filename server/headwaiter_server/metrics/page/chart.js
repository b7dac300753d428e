// One chart: its heading, its legend with the figures at the time that is read, and its plot.

import { NONE } from "./format.js";

const SYNC = "charts";
const AXIS_HEIGHT = 24;
const AXIS_WIDTH = 54;

const dashed = [5, 4];

/** The colour of a class in page.css, which is the one place where colours stand. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export class Chart {
  /** `spec` is one of `specs.js`; `onRead(chart)` is told when the pointer moves over the plot or leaves it. */
  constructor(spec, onRead) {
    this.spec = spec;
    this.lines = [];
    this.figures = spec.series.map(() => element("b"));
    const entries = spec.series.map(({ label, colour }, place) =>
      element("li", {}, element("i", { class: colour, "aria-hidden": "true" }), label, " ", this.figures[place]),
    );
    this.lineEntry = element("li", { hidden: "" }, element("i", { class: "quiet dashed", "aria-hidden": "true" }));
    this.lineLabel = document.createTextNode("");
    this.lineEntry.append(this.lineLabel);
    const title = element("h3", {}, `${spec.title} `, element("span", {}, spec.unit));
    this.hint = element("p", { class: "hint", hidden: "" }, spec.empty);
    const label = `${spec.title}, ${spec.unit}. No figures yet.`;
    this.plot = element(
      "div",
      { class: "plot", tabindex: "0", role: "img", "aria-label": label, "data-chart": spec.id },
      this.hint,
    );
    this.root = element(
      "section",
      { class: `chart ${spec.size}`, "aria-label": spec.title },
      element("header", {}, title, element("ul", { class: "legend" }, ...entries, this.lineEntry)),
      this.plot,
    );
    this.onRead = onRead;
  }

  /** Begin to draw; the root must be in the document, so that it has a size. */
  draw() {
    this.uplot = new uPlot(this.#options(), [[], ...this.spec.series.map(() => [])], this.plot);
    new ResizeObserver(() => this.uplot.setSize(this.#size())).observe(this.plot);
  }

  /** Show what `history` holds between two times; `lines` has the values of `spec.line` and its text. */
  update(history, from, to, line) {
    this.restarts = history.restarts;
    this.line = line;
    this.lineEntry.hidden = !line;
    if (line) this.lineLabel.data = line.label;
    const columns = (this.columns = this.spec.series.map(({ key }) => history.column(key)));
    const drawn = columns.map((column, place) => (this.spec.series[place].rare ? risen(column) : column));
    this.uplot.batch(() => {
      this.uplot.setData([history.times, ...drawn], false);
      this.uplot.setScale("x", { min: from, max: to });
    });
    const first = history.times.findIndex((time) => time >= from);
    this.hint.hidden = first >= 0 && columns.some((column) => column.slice(first).some((value) => value != null));
  }

  /** Put the figures of the point `index` into the legend, or the newest that are known. */
  read(index) {
    const texts = this.spec.series.map(({ format }, place) => {
      const value = this.columns?.[place][index];
      return value == null ? NONE : format(value);
    });
    this.figures.forEach((figure, place) => (figure.textContent = texts[place]));
    return this.spec.series.map(({ label }, place) => `${label} ${texts[place]}`).join(", ");
  }

  /** Say what the chart shows to those who do not see it. */
  describe(text) {
    this.plot.setAttribute("aria-label", `${this.spec.title}, ${this.spec.unit}. ${text}. Arrow keys read earlier seconds.`);
  }

  /** Stand the cursor at a time, or take it away. */
  point(time) {
    const left = time == null ? -10 : this.uplot.valToPos(time, "x");
    this.uplot.setCursor({ left, top: time == null ? -10 : 10 }, false, false);
  }

  redraw() {
    this.uplot.redraw(false);
  }

  #size() {
    return { width: this.plot.clientWidth, height: this.plot.clientHeight };
  }

  #options() {
    const { series, top, ticks } = this.spec;
    const axis = { stroke: () => colour("quiet"), font: this.#font(), ticks: { show: false } };
    return {
      ...this.#size(),
      legend: { show: false },
      padding: [8, 8, 0, 0],
      cursor: { y: false, drag: { x: false, y: false, setScale: false }, sync: { key: SYNC }, points: { size: 6 } },
      scales: {
        x: { auto: false },
        y: { distr: top.log ? 3 : 1, range: (_plot, min, max) => (top.log ? decades(min, max) : this.#range(max, top)) },
      },
      axes: [
        { ...axis, size: AXIS_HEIGHT, gap: 6, space: 64, grid: { show: false }, values: times },
        {
          ...axis,
          size: AXIS_WIDTH,
          gap: 6,
          space: 24,
          grid: { stroke: () => colour("grid"), width: 1 },
          ...(top.log && { splits: (_plot, _axis, min, max) => powers(min, max), filter: (_plot, splits) => splits }),
          values: (_plot, splits) => ticks(splits),
        },
      ],
      series: [
        {},
        ...series.map((one) => ({
          label: one.label,
          scale: "y",
          stroke: () => colour(one.colour),
          fill: one.fill ? () => `${colour(one.colour)}24` : undefined,
          width: 1.25,
          spanGaps: false,
          points: { show: (plot, place, from, to) => alone(plot.data[place], from, to), filter: lonely, size: 3.5 },
        })),
      ],
      hooks: { draw: [(plot) => this.#marks(plot)], setCursor: [() => this.onRead(this)] },
    };
  }

  #font() {
    return `12px ${getComputedStyle(document.body).fontFamily}`;
  }

  #range(max, top) {
    if (top.fixed) return [0, top.fixed];
    return [0, Math.max((max ?? 0) * 1.12, top.least)];
  }

  /** Bounds and restarts, over the lines. */
  #marks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = colour("quiet");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash(dashed.map((length) => length * devicePixelRatio));
    ctx.beginPath();
    if (this.line && this.line.value <= plot.scales.y.max && this.line.value >= plot.scales.y.min) {
      const y = plot.valToPos(this.line.value, "y", true);
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
    }
    for (const time of this.restarts ?? []) {
      if (time < plot.scales.x.min) continue;
      const x = plot.valToPos(time, "x", true);
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
    }
    ctx.stroke();
    ctx.restore();
  }
}

/** Points that no line reaches, as both their neighbours are unknown, are drawn as dots. */
function lonely(plot, place, show) {
  if (!show) return null;
  const values = plot.data[place];
  const found = [];
  for (let index = 0; index < values.length; index += 1) {
    if (values[index] != null && values[index - 1] == null && values[index + 1] == null) found.push(index);
  }
  return found;
}

function alone(values, from, to) {
  for (let index = from; index <= to; index += 1) {
    if (values[index] != null && values[index - 1] == null && values[index + 1] == null) return true;
  }
  return false;
}

/** Whole powers of ten around two values. */
function decades(min, max) {
  if (!(min > 0)) return [0.001, 1];
  const [low, high] = [Math.floor(Math.log10(min)), Math.ceil(Math.log10(max))];
  return [10 ** low, 10 ** Math.max(high, low + 1)];
}

/** Powers of ten between two of them, with steps between where these are few. */
function powers(min, max) {
  const [low, high] = [min, max].map((value) => Math.round(Math.log10(value)));
  const steps = high - low > 2 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = low; power < high; power += 1) found.push(...steps.map((step) => step * 10 ** power));
  return [...found, 10 ** high];
}

/** A column without its zeros that lie between zeros: of what is rare, a line along the axis says nothing. */
function risen(values) {
  return values.map((value, index) => (value || values[index - 1] || values[index + 1] ? value : null));
}

/** Times of day under the axis, with seconds where ticks are less than a minute apart; none that would be cut. */
function times(plot, splits) {
  const seconds = splits.length > 1 && splits[1] - splits[0] < 60;
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(seconds && { second: "2-digit" }) };
  const rightmost = plot.bbox.width / devicePixelRatio - (seconds ? 20 : 8);
  return splits.map((time) =>
    plot.valToPos(time, "x") > rightmost ? "" : new Date(time * 1000).toLocaleTimeString([], options),
  );
}
