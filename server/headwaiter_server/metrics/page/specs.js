// What is shown: the charts and the tiles, each figure with its unit; some of them only where a model generates.

import { NONE, count, duration, number, percent, plural } from "./format.js";

const rate = (unit) => (value) => `${number(value)} ${unit}/s`;
const seconds = (value) => duration(value).join(" ");
const share = (value) => `${percent(value)} %`;

const plain = (splits) => splits.map((value) => compact(value));
const shares = (splits) => splits.map((value) => `${Math.round(value * 1000) / 10} %`);
const durations = (splits) => splits.map((value) => (value >= 1 ? `${trim(value)} s` : `${trim(value * 1000)} ms`));

const compact = (value) => (value >= 10_000 ? `${trim(value / 1000)}k` : trim(value));
const trim = (value) => String(Number(value.toPrecision(6)));

export const CHARTS = [
  {
    id: "calls",
    title: "Calls",
    unit: "per second",
    size: "large",
    series: [
      { key: "calls", label: "all", colour: "blue", fill: true, format: rate("calls") },
      { key: "errors", label: "not OK", colour: "red", fill: true, rare: true, format: rate("calls") },
    ],
    top: { least: 5 },
    ticks: plain,
    empty: "No call in this time.",
  },
  {
    id: "latency",
    title: "Latency",
    unit: "of calls worked on, logarithmic",
    size: "large",
    series: [
      { key: "p50", label: "p50", colour: "ramp-1", format: seconds },
      { key: "p90", label: "p90", colour: "ramp-2", format: seconds },
      { key: "p99", label: "p99", colour: "ramp-3", format: seconds },
    ],
    top: { log: true },
    ticks: durations,
    line: (answer) => answer.slo_seconds && { value: answer.slo_seconds, label: `SLO ${seconds(answer.slo_seconds)}` },
    empty: "No call in this time.",
  },
  {
    id: "texts",
    title: "Texts",
    unit: "per second",
    size: "middle",
    series: [{ key: "texts", label: "answered", colour: "blue", fill: true, format: rate("texts") }],
    top: { least: 5 },
    ticks: plain,
    empty: "No text in this time.",
  },
  {
    id: "tokens",
    title: "Tokens",
    unit: "per second",
    size: "middle",
    series: [
      { key: "source_tokens", label: "read", colour: "teal", fill: true, format: rate("tokens") },
      { key: "generated_tokens", label: "generated", colour: "violet", fill: true, format: rate("tokens") },
    ],
    top: { least: 10 },
    ticks: plain,
    empty: "No token in this time.",
  },
  {
    id: "saturation",
    title: "Saturation",
    unit: "% of all workers' time",
    size: "middle",
    series: [{ key: "saturation", label: "busy", colour: "amber", fill: true, format: share }],
    top: { fixed: 1 },
    ticks: shares,
    empty: "Nothing is known of this time.",
  },
  {
    id: "queue",
    title: "Queue",
    unit: "texts",
    size: "small",
    series: [
      { key: "queue", label: "waiting", colour: "amber", fill: true, format: (value) => plural(value, "text") },
      { key: "running", label: "running", colour: "teal", format: (value) => plural(value, "text") },
    ],
    top: { least: 5 },
    ticks: plain,
    empty: "Nothing is known of this time.",
  },
  {
    id: "wait",
    title: "Predicted wait",
    unit: "ms or s",
    size: "small",
    series: [{ key: "wait", label: "of a new text", colour: "amber", fill: true, format: seconds }],
    top: { least: 0.001 },
    ticks: durations,
    empty: "Predicted for encoders only.",
  },
  {
    id: "batches",
    title: "Batches",
    unit: "tokens per run",
    size: "small",
    series: [{ key: "run_tokens", label: "mean", colour: "teal", fill: true, format: (value) => `${number(value)} tokens` }],
    top: { least: 8 },
    ticks: plain,
    line: (answer) => answer.budget_tokens && { value: answer.budget_tokens, label: `budget ${count(answer.budget_tokens)} tokens` },
    empty: "No run in this time.",
  },
  {
    id: "padding",
    title: "Padding",
    unit: "% of computed tokens",
    size: "small",
    series: [{ key: "padding", label: "to fill rows", colour: "violet", fill: true, format: share }],
    top: { least: 0.1 },
    ticks: shares,
    empty: "No run in this time.",
  },
  {
    id: "first-token",
    title: "First token",
    unit: "since the call came, logarithmic",
    size: "middle",
    generates: true,
    series: [
      { key: "first_p50", label: "p50", colour: "ramp-1", format: seconds },
      { key: "first_p99", label: "p99", colour: "ramp-3", format: seconds },
    ],
    top: { log: true },
    ticks: durations,
    empty: "No text has begun in this time.",
  },
  {
    id: "next-tokens",
    title: "Next tokens",
    unit: "since the one before, logarithmic",
    size: "middle",
    generates: true,
    series: [
      { key: "next_p50", label: "p50", colour: "ramp-1", format: seconds },
      { key: "next_p99", label: "p99", colour: "ramp-3", format: seconds },
    ],
    top: { log: true },
    ticks: durations,
    empty: "No text has gone on in this time.",
  },
  {
    id: "kv-cache",
    title: "KV cache",
    unit: "% of its memory, reserved",
    size: "middle",
    generates: true,
    series: [{ key: "kv_cache", label: "in use", colour: "amber", fill: true, format: share }],
    top: { fixed: 1 },
    ticks: shares,
    empty: "Nothing is known of this time.",
  },
];

/** Tiles: `figure` gives a value and its unit, `more` the lines below it; `now` is what the server says of the last seconds. */
export const TILES = [
  {
    id: "calls",
    title: "Calls",
    figure: (now) => [number(now.calls), "calls/s"],
    more: (now) => [now.errors ? `${number(now.errors)} not OK/s` : now.calls ? "all OK" : "none finished", worst(now.codes) || `${count(now.in_flight)} in flight`],
    alarm: (now) => now.errors > 0,
  },
  {
    id: "texts",
    title: "Texts",
    figure: (now) => [number(now.texts), "texts/s"],
    more: (now) => [ratio(now.texts, now.calls - now.errors, "texts per call")],
  },
  {
    id: "tokens",
    title: "Tokens",
    figure: (now) => [number(sum(now.source_tokens, now.generated_tokens)), "tokens/s"],
    more: (now) => [
      ratio(now.source_tokens, now.texts, "tokens per text"),
      now.generated_tokens ? `${number(now.generated_tokens)} generated/s` : "none generated",
    ],
  },
  {
    id: "p50",
    title: "Latency, median",
    figure: (now) => duration(now.p50),
    more: (now) => [`p90 ${seconds(now.p90)}`],
  },
  {
    id: "p99",
    title: "Latency, p99",
    figure: (now) => duration(now.p99),
    more: (now, answer) => [
      now.within_slo == null ? `SLO ${seconds(answer.slo_seconds)}` : `${percent(now.within_slo)} % within ${seconds(answer.slo_seconds)}`,
      "",
    ],
    alarm: (now) => now.within_slo != null && now.within_slo < 0.99,
  },
  {
    id: "saturation",
    title: "Saturation",
    figure: (now) => [percent(now.saturation), "%"],
    meter: (now) => now.saturation,
    more: (now, answer) => [
      `${now.saturation == null ? NONE : number(now.saturation * answer.workers)} of ${plural(answer.workers, "worker")}`,
    ],
  },
  {
    id: "queue",
    title: "Queue",
    figure: (now) => [count(now.queue), now.queue === 1 ? "text" : "texts"],
    more: (now) => [
      now.wait == null ? "no wait predicted" : `predicted wait ${seconds(now.wait)}`,
      now.running == null ? "" : `${plural(now.running, "text")} running`,
    ],
  },
  {
    id: "batches",
    title: "Batches",
    figure: (now) => [number(now.run_tokens), "tokens/run"],
    more: (now) => [`${number(now.run_texts)} texts per run`, `${percent(now.padding)} % padding`],
  },
  {
    id: "first-token",
    title: "First token, median",
    generates: true,
    figure: (now) => duration(now.first_p50),
    more: (now) => [`p99 ${seconds(now.first_p99)}`, `next ${seconds(now.next_p50)}`],
  },
  {
    id: "kv-cache",
    title: "KV cache",
    generates: true,
    figure: (now) => [percent(now.kv_cache), "%"],
    meter: (now) => now.kv_cache,
    more: (now) => [`${plural(now.running, "text")} running`],
  },
];

const sum = (one, other) => (one == null && other == null ? null : (one ?? 0) + (other ?? 0));
const ratio = (of, by, unit) => `${of && by > 0 ? number(of / by) : NONE} ${unit}`;

/** The most frequent of the codes that are not OK, in words, and how many others there are. */
function worst(codes) {
  const [first, ...rest] = Object.entries(codes ?? {}).sort(([, one], [, other]) => other - one);
  if (!first) return "";
  const words = first[0].toLowerCase().replaceAll("_", " ");
  return rest.length ? `${words} +${rest.length}` : words;
}
