// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const NONE = "–";

/** Three digits that count, with a unit's prefix apart: 0.42, 4.2, 42, 420. */
function digits(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 10) return value.toFixed(size < 1 ? 2 : 1).replace(/\.?0+$/, "") || "0";
  return whole.format(value);
}

/** A count, written out. */
export const count = (value) => (value == null ? NONE : whole.format(value));

/** Bytes, in units of 1024. */
export function bytes(value) {
  if (value == null) return NONE;
  let power = 0;
  let size = value;
  while (Math.abs(size) >= 1000 && power < UNITS.length - 1) {
    size /= 1024;
    power += 1;
  }
  return `${digits(size)} ${UNITS[power]}`;
}

/** A number with k and M. */
export function short(value) {
  if (value == null) return NONE;
  const size = Math.abs(value);
  if (size >= 1e9) return `${digits(value / 1e9)} G`;
  if (size >= 1e6) return `${digits(value / 1e6)} M`;
  if (size >= 1e4) return `${digits(value / 1e3)} k`;
  return digits(value);
}

/** A value of a series, by the unit that the API names. */
export function measured(value, unit) {
  if (value == null) return NONE;
  if (unit === "bytes" || unit === "By") return bytes(value);
  if (unit === "B/s" || unit === "By/s") return `${bytes(value)}/s`;
  if (unit === "%") return `${digits(value)} %`;
  if (unit === "1/s") return `${short(value)}/s`;
  if (unit === "Cel") return `${digits(value)} °C`;
  if (unit === "ms") return value >= 10_000 ? `${digits(value / 1000)} s` : `${digits(value)} ms`;
  return short(value);
}

/** A span of seconds in its two largest units. */
export function span(seconds) {
  const total = Math.max(0, Math.floor(seconds));
  const days = Math.floor(total / 86_400);
  const hours = Math.floor(total / 3600) % 24;
  const minutes = Math.floor(total / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
  if (minutes) return `${minutes} min ${String(total % 60).padStart(2, "0")} s`;
  return `${total} s`;
}

/** How long ago a moment was, in its largest unit. */
export function ago(moment) {
  if (!moment) return "never";
  const seconds = (Date.now() - new Date(moment).getTime()) / 1000;
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

const two = (number) => String(number).padStart(2, "0");

/** The time of day, here. */
export function clock(date, { seconds = true } = {}) {
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return seconds ? `${time}:${two(date.getSeconds())}` : time;
}

/** A day and a time, here. */
export function dated(moment) {
  if (!moment) return NONE;
  const date = new Date(moment);
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${clock(date, { seconds: false })}`;
}
