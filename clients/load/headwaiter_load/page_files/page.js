// Draws the plots that the page's data describes (plots.py says what each field means), in the colours of the theme.
"use strict";

(() => {
  const root = document.documentElement;
  // Of each plot by its name: what it is, whether its scale is logarithmic, and what uPlot has made of it.
  const shown = new Map();
  const height = 270;
  let colors = {};

  const color = (name) => (colors[name] ??= getComputedStyle(root).getPropertyValue(`--${name}`).trim());

  function short(value) {
    if (value === 0) return "0";
    const rounded = Number(value.toPrecision(3));
    const decimals = Math.min(12, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(rounded)))));
    return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  }

  function seconds(value, write) {
    if (value === 0) return "0 s";
    if (value >= 0.9995) return `${write(value)} s`;
    return value >= 0.0009995 ? `${write(value * 1e3)} ms` : `${write(value * 1e6)} µs`;
  }

  // Values are written with three digits, the ticks of an axis with those they need.
  const units = {
    seconds,
    rate: (value, write) => `${write(value)}/s`,
    share: (value, write) => `${write(value * 100)} %`,
    count: (value) => Math.round(value).toLocaleString("en"),
    number: (value, write) => write(value),
  };
  const plain = (value) => Number(value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 });
  const percentile = (rarity) => `${Number(((1 - 1 / rarity) * 100).toPrecision(10))} %`;

  function writeX(plot, value) {
    if (plot.x_kind === "percentile") {
      const share = 100 * (1 - 1 / value);
      return `${share.toFixed(Math.max(0, Math.ceil(Math.log10(value)) - 1))} %`;
    }
    if (plot.x_kind === "bucket") return plot.buckets[value] ?? "";
    return plot.x_kind === "time" ? `${value.toFixed(1)} s` : units.rate(value, short);
  }

  function logSplits(low, high) {
    const splits = [];
    const steps = Math.log10(high / low) > 2.5 ? [1] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const step of steps) {
        const value = step * 10 ** power;
        if (value >= low && value <= high) splits.push(value);
      }
    }
    return splits;
  }

  function xScale(plot) {
    if (plot.x_kind === "percentile") return { time: false, distr: 3, range: () => [1, plot.x.at(-1)] };
    if (plot.x_kind === "bucket") return { time: false, range: () => [-0.5, plot.x.length - 0.5] };
    const [first, last] = [plot.x[0], plot.x.at(-1)];
    const room = plot.x.length > 1 ? (last - first) * 0.02 : 1;
    return { time: false, range: (_, low, high) => (low === high ? [low - room, high + room] : [low, high]) };
  }

  function xAxis(plot) {
    const axis = { ...axisLook(), label: plot.x_label, size: 30, labelSize: 18, labelGap: -2 };
    axis.values = (_, splits) => splits.map(plain);
    if (plot.x_kind === "percentile") {
      const splits = [1, 2, 4, 10, 20, 100, 1e3, 1e4, 1e5, 1e6].filter((rarity) => rarity <= plot.x.at(-1));
      return { ...axis, splits: () => splits, filter: (_, all) => all, values: apart };
    }
    if (plot.x_kind === "bucket") {
      return { ...axis, splits: () => plot.x, values: (_, all) => all.map((each) => plot.buckets[each]) };
    }
    return axis;
  }

  // Percentiles, but for those that would stand on the one before.
  function apart(u, rarities) {
    let end = -Infinity;
    return rarities.map((rarity) => {
      const at = u.valToPos(rarity, "x");
      const words = percentile(rarity);
      const half = words.length * 3.6;
      if (at - half < end) return "";
      end = at + half + 4;
      return words;
    });
  }

  function yRange(plot, log) {
    const marks = plot.marks.filter((mark) => mark.axis === "y").map((mark) => mark.value);
    return (_, low, high) => {
      if (high == null) return log ? [1e-3, 1] : [0, 1];
      const top = Math.max(high, ...marks);
      return log ? [Math.min(low, ...marks) / 1.2, top * 1.2] : [0, top > 0 ? top * 1.06 : 1];
    };
  }

  function axisLook() {
    return {
      stroke: () => color("soft"),
      grid: { stroke: () => color("grid"), width: 1 },
      ticks: { stroke: () => color("grid"), width: 1, size: 4 },
      font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif",
    };
  }

  function yAxis(plot, log) {
    const axis = { ...axisLook(), size: 68, values: (_, splits) => splits.map((v) => units[plot.y_unit](v, plain)) };
    return log ? { ...axis, splits: (u) => logSplits(u.scales.y.min, u.scales.y.max), filter: (_, all) => all } : axis;
  }

  function seriesLook(plot, series, raw) {
    const stroke = () => color(`c${series.color}`);
    const look = {
      label: series.name,
      stroke,
      width: 2,
      points: { show: plot.x_kind === "rate", size: 7, fill: stroke },
      value: (_, __, index, at) => (at == null || raw[index - 1][at] == null ? "" : units[plot.y_unit](raw[index - 1][at], short)),
    };
    if (series.style === "dashed") return { ...look, width: 1.5, dash: [6, 5], points: { show: false } };
    if (series.style === "area") return { ...look, width: 0, fill: stroke, points: { show: false } };
    if (series.style === "bars") {
      return { ...look, width: 0, fill: stroke, paths: uPlot.paths.bars({ size: [0.82, 70] }), points: { show: false } };
    }
    if (series.style === "points") {
      const size = plot.x_kind === "rate" ? 11 : 4;
      return { ...look, paths: () => null, points: { show: true, size, fill: stroke } };
    }
    return look;
  }

  function drawMarks(plot) {
    return (u) => {
      const { ctx, bbox } = u;
      const ratio = devicePixelRatio;
      ctx.save();
      ctx.font = `${12 * ratio}px system-ui, sans-serif`;
      ctx.strokeStyle = ctx.fillStyle = color("soft");
      ctx.textBaseline = "bottom";
      ctx.setLineDash([3 * ratio, 3 * ratio]);
      for (const mark of plot.marks) {
        const at = u.valToPos(mark.value, mark.axis, true);
        ctx.beginPath();
        if (mark.axis === "y") {
          ctx.moveTo(bbox.left, at);
          ctx.lineTo(bbox.left + bbox.width, at);
          ctx.textAlign = "left";
          ctx.fillText(mark.label, bbox.left + 6 * ratio, at - 3 * ratio);
        } else {
          ctx.moveTo(at, bbox.top);
          ctx.lineTo(at, bbox.top + bbox.height);
          ctx.textAlign = at > bbox.left + bbox.width / 2 ? "right" : "left";
          ctx.fillText(mark.label, at + (ctx.textAlign === "right" ? -6 : 6) * ratio, bbox.top + 14 * ratio);
        }
        ctx.stroke();
      }
      ctx.restore();
    };
  }

  // Areas are sums over those before them. The largest is drawn first, and what is left to see of each is its own.
  function stacked(plot) {
    const sums = plot.x.map(() => 0);
    const layers = plot.series.map((series) => ({
      series,
      drawn: series.values.map((value, at) => (value == null ? null : (sums[at] += value))),
    }));
    return layers.reverse();
  }

  function draw(state) {
    const { plot, log, place } = state;
    state.drawn?.destroy();
    const areas = plot.series.every((series) => series.style === "area");
    const layers = areas ? stacked(plot) : plot.series.map((series) => ({ series, drawn: series.values }));
    const positive = (value) => (log && value != null && value <= 0 ? null : value);
    const raw = layers.map((layer) => layer.series.values);
    state.drawn = new uPlot(
      {
        width: place.clientWidth,
        height,
        scales: { x: xScale(plot), y: { distr: log ? 3 : 1, range: yRange(plot, log) } },
        axes: [xAxis(plot), yAxis(plot, log)],
        series: [
          { label: plot.x_label, value: (_, value) => (value == null ? "" : writeX(plot, value)) },
          ...layers.map((layer) => seriesLook(plot, layer.series, raw)),
        ],
        legend: { markers: { width: 0, fill: (_, index) => color(`c${layers[index - 1].series.color}`) } },
        cursor: {
          y: false,
          points: { show: !areas },
          drag: { x: plot.x_kind !== "bucket", y: false },
          ...(plot.x_kind === "time" ? { sync: { key: "time", scales: ["x", null] } } : {}),
        },
        hooks: { draw: [drawMarks(plot)] },
      },
      [plot.x, ...layers.map((layer) => layer.drawn.map(positive))],
      place,
    );
    place.classList.toggle("stacked", areas);
  }

  function show(plot) {
    const place = document.getElementById(`plot-${plot.name}`);
    const state = { plot, place, log: plot.y_log };
    shown.set(plot.name, state);
    if (plot.y_unit === "seconds" && plot.series.every((series) => series.style !== "area")) {
      const button = document.createElement("button");
      const rename = () => (button.textContent = state.log ? "linear scale" : "logarithmic scale");
      button.type = "button";
      button.addEventListener("click", () => {
        state.log = !state.log;
        rename();
        draw(state);
      });
      rename();
      place.parentElement.querySelector("figcaption").append(button);
    }
    draw(state);
    new ResizeObserver(() => {
      if (place.clientWidth !== state.drawn.width) state.drawn.setSize({ width: place.clientWidth, height });
    }).observe(place);
  }

  function recolor() {
    colors = {};
    for (const state of shown.values()) draw(state);
  }

  for (const plot of JSON.parse(document.getElementById("plots").textContent)) show(plot);

  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", recolor);
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    recolor();
  });
})();
