// Figures as people read them. A figure that is not known is a dash.

export const NONE = "–";

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** Three significant digits; whole from a hundred on, in groups of thousands up to a million. */
export function number(value) {
  if (value == null) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 999_999.5) return compact.format(value);
  if (size >= 99.95) return grouped.format(value);
  if (size >= 9.995) return value.toFixed(1);
  return size >= 0.01 ? value.toFixed(2) : value.toPrecision(1);
}

/** A count of things: no fraction where there is none. */
export function count(value) {
  return value != null && Number.isInteger(value) && Math.abs(value) < 1_000_000 ? grouped.format(value) : number(value);
}

/** Seconds as a figure and its unit, `ms` or `s`. */
export function duration(seconds) {
  if (seconds == null) return [NONE, "ms"];
  return seconds >= 1 ? [number(seconds), "s"] : [number(seconds * 1000), "ms"];
}

/** A share of 1 as a percentage, without its sign. */
export function percent(share) {
  if (share == null) return NONE;
  const value = share * 100;
  // All but one of a thousand is not all of them.
  if (value > 99.9 && value < 100) return (Math.floor(value * 100) / 100).toFixed(2);
  return value === 0 || value >= 99.95 ? value.toFixed(0) : value.toFixed(1);
}

/** The time of day of a Unix time in seconds. */
export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hourCycle: "h23" });
}

/** How long something lasted or is ago, in words: `42 s`, `3 min 5 s`, `2 h 10 min`. */
export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  if (hours >= 24) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return rest ? `${minutes} min ${rest} s` : `${minutes} min`;
}

/** One of something, or several: `plural(2, "text")` is `2 texts`. */
export function plural(value, one) {
  return `${count(value)} ${one}${value === 1 ? "" : "s"}`;
}
