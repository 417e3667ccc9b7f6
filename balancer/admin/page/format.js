// Numbers and words for people. Pure.

const MOST = 400;
// Control characters, and those that turn the direction of text: a name or a reason shall not rearrange the page.
const UNFIT = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+/g;
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
export const NONE = "–";

/** Any text from outside as one printable line of bounded length. */
export function clean(text) {
  const line = String(text ?? "").replace(UNFIT, " ").trim();
  return line.length > MOST ? line.slice(0, MOST - 1) + "…" : line;
}

/** How many, or how many per second: 0.4, 7, 1,234, 2.5 M. */
export function count(number) {
  if (number >= 1e6) return `${tenth.format(number / 1e6)} M`;
  if (number > 0 && number < 0.05) return "< 0.1";
  return (number < 10 ? tenth : whole).format(number);
}

/** Seconds that something took: 0.21 ms, 3.4 ms, 120 ms, 1.2 s. */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const ms = seconds * 1000;
  if (ms >= 1000) return `${seconds.toFixed(1)} s`;
  return `${ms < 1 ? ms.toFixed(2) : ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
}

/** A part of one. */
export function percent(part) {
  const number = part * 100;
  if (number > 0 && number < 0.1) return "< 0.1 %";
  return `${number >= 99.95 || number >= 9.95 && number < 99 ? number.toFixed(0) : tenth.format(number)} %`;
}

/** How long ago, or for how long: 12 s, 4 min, 3 h 20 min, 5 d 4 h. */
export function age(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  const [big, small, size, part] = s < 86400 ? ["h", "min", 3600, 60] : ["d", "h", 86400, 3600];
  const rest = Math.floor(s % size / part);
  return `${Math.floor(s / size)} ${big}${rest ? ` ${rest} ${small}` : ""}`;
}

const two = (number) => String(number).padStart(2, "0");

/** Seconds since 1970 as a time of day here; with the date when that is another day than `now`'s. */
export function moment(seconds, now) {
  const at = new Date(seconds * 1000), today = new Date(now * 1000);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (at.toDateString() === today.toDateString()) return time;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** "1 server", "2 servers". */
export function plural(number, word) {
  return `${whole.format(number)} ${word}${number === 1 ? "" : "s"}`;
}
