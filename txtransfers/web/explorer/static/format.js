// Numbers, sizes, times and names as people read them.

const whole = new Intl.NumberFormat("en");
const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

export const count = (number) => whole.format(number ?? 0);

export const plural = (number, word, words = `${word}s`) => `${count(number)} ${Number(number) === 1 ? word : words}`;

export function size(bytes) {
  let value = Number(bytes) || 0;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export const rate = (bytes) => (bytes > 0 && Number.isFinite(bytes) ? `${size(bytes)}/s` : "–");

/** A short time, in milliseconds. */
export function milliseconds(number) {
  if (number < 0.1) return "< 0.1 ms";
  return `${number < 10 ? number.toFixed(1) : Math.round(number)} ms`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "–";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const all = Math.round(seconds);
  if (all < 60) return `${all} s`;
  if (all < 3600) return `${Math.floor(all / 60)} min ${all % 60} s`;
  if (all < 86400) return `${Math.floor(all / 3600)} h ${Math.floor((all % 3600) / 60)} min`;
  return `${Math.floor(all / 86400)} d ${Math.floor((all % 86400) / 3600)} h`;
}

/** Orthanc's `20261124T155109.846411`, which is UTC. */
export function moment(text) {
  const found = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?:\.(\d{1,3}))?/.exec(text ?? "");
  if (!found) return null;
  const [, year, month, day, hour, minute, second, milli = "0"] = found;
  return new Date(Date.UTC(+year, month - 1, +day, +hour, +minute, +second, +milli.padEnd(3, "0")));
}

const two = (number) => String(number).padStart(2, "0");

export function time(date) {
  return date ? `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}` : "";
}

export function dateTime(date, now = new Date()) {
  if (!date) return "";
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return date.toDateString() === now.toDateString() ? time(date) : `${day} ${time(date)}`;
}

/** A DICOM date, `20260301`; others as they are. */
export function day(text) {
  const found = /^(\d{4})(\d\d)(\d\d)$/.exec(text ?? "");
  return found ? `${found[1]}-${found[2]}-${found[3]}` : text ?? "";
}

/** A DICOM name, `Family^Given^Middle=…`, as it is written on paper. */
export function person(text) {
  const [family = "", ...given] = String(text ?? "").split("=")[0].split("^");
  const rest = given.slice(0, 2).filter(Boolean).join(" ");
  return [family.trim(), rest.trim()].filter(Boolean).join(", ");
}

export const short = (id) => String(id ?? "").slice(0, 8);

/** What somebody typed, as a pattern of DICOM: a part of the text, unless they know better. */
export function pattern(text) {
  const wanted = text.trim();
  if (!wanted) return "";
  return /[*?]/.test(wanted) ? wanted : `*${wanted}*`;
}

/** A day, a month, a year, or a range of them, as DICOM asks for them; null for anything else. */
export function dates(text) {
  const wanted = text.trim();
  if (!wanted) return "";
  const parts = wanted.split(/\s*(?:\.\.|–|—|\s+-\s+|\bto\b)\s*/);
  const whole = /^(\d{4})-?(\d\d)?-?(\d\d)?$/;
  if (parts.length === 1) {
    const range = /^(\d{8})?-(\d{8})?$/.exec(wanted);
    if (range) return wanted === "-" ? null : wanted;
  }
  const ends = parts.map((part) => whole.exec(part));
  if (parts.length > 2 || ends.some((end, n) => !end && parts[n] !== "") || ends.every((end) => !end)) return null;
  const first = (end) => (end ? `${end[1]}${end[2] ?? "01"}${end[3] ?? "01"}` : "");
  const last = (end) => (end ? `${end[1]}${end[2] ?? "12"}${end[3] ?? "31"}` : "");
  const from = first(ends[0]);
  const to = last(ends.at(-1));
  return from === to ? from : `${from}-${to}`;
}
