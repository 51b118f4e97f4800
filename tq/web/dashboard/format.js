// Numbers, times, sizes and message contents as people read them.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export const count = (number) => whole.format(number);
export const brief = (number) => (number < 10_000 ? whole.format(number) : short.format(number));

export function rate(perSecond) {
  if (perSecond === null) return "–";
  if (perSecond === 0) return "0";
  if (perSecond < 10) return perSecond < 0.05 ? "< 0.1" : perSecond.toFixed(1);
  return brief(Math.round(perSecond));
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; number >= 1024 && unit < units.length - 1; unit += 1) number /= 1024;
  return `${unit && number < 10 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 1) return seconds > 0 ? "< 1 s" : "0 s";
  const parts = [
    [86_400, "d"],
    [3_600, "h"],
    [60, "min"],
    [1, "s"],
  ];
  const first = parts.findIndex(([size]) => seconds >= size);
  const [size, unit] = parts[first];
  const number = Math.floor(seconds / size);
  const next = parts[first + 1];
  const rest = next && unit !== "min" ? Math.floor((seconds % size) / next[0]) : 0;
  return rest ? `${number} ${unit} ${rest} ${next[1]}` : `${number} ${unit}`;
}

export const timeOfDay = (ms) => clock.format(ms);
export const minuteOfDay = (ms) => minute.format(ms);
export const moment = (text) => new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
export const ago = (text) => duration(Math.max(0, (Date.now() - Date.parse(text)) / 1000));

// Characters that would not be seen, or change the order of others, are shown by their number or their symbol.
export function visible(text) {
  return text.replace(
    /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (one) => {
      const number = one.charCodeAt(0);
      return number < 32
        ? String.fromCharCode(0x2400 + number)
        : `⟨U+${number.toString(16).toUpperCase().padStart(4, "0")}⟩`;
    },
  );
}

// --- JSON whose numbers keep the digits that they came with ---

class Digits {
  constructor(source) {
    this.source = source;
  }
}

// Parsed, but for numbers that would not be the same when written again: 1.10, 1e999, or one of twenty digits.
export function parse(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && context?.source !== undefined && context.source !== String(value)
      ? new Digits(context.source)
      : value,
  );
}

// JSON text again: over several lines with an indent, or in one without.
function written(value, indent = "") {
  if (value instanceof Digits) return value.source;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const inner = indent === null ? null : `${indent}  `;
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const items = Array.isArray(value)
    ? value.map((item) => written(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${written(item, inner)}`);
  if (!items.length) return open + close;
  return indent === null
    ? `${open}${items.join(", ")}${close}`
    : `${open}\n${items.map((item) => inner + item).join(",\n")}\n${indent}${close}`;
}

// --- contents ---

const CONTROL = /[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/; // none of text, but for the escape of terminals

// What a message's content is: `kind`, in words; `size`, in bytes; and `raw`, `text` or the JSON `value`.
export function contentOf({ content, encoding, content_type: type }) {
  if (encoding === "base64") {
    const raw = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    return { kind: type || "binary", size: raw.length, raw };
  }
  // Bytes that happen to be UTF-8.
  if (type && CONTROL.test(content)) {
    const raw = new TextEncoder().encode(content);
    return { kind: type, size: raw.length, raw };
  }
  if (typeof content === "string") return { kind: type || "text", size: utf8Length(content), text: content };
  return { kind: "JSON", size: utf8Length(written(content, null)), value: content };
}

// The content to read: pretty where it is JSON, as a hex dump where it is binary; so many characters of it.
export function shown(content, most = Infinity) {
  if (content.raw) return hexDump(most === Infinity ? content.raw : content.raw.subarray(0, Math.floor(most / 5)));
  return visible((content.text ?? written(content.value)).slice(0, most));
}

export function isCut(content, most) {
  if (content.raw) return content.raw.length > Math.floor(most / 5);
  return (content.text ?? written(content.value)).length > most;
}

export function snippet(content) {
  if (content.raw) return [...content.raw.subarray(0, 24)].map(hex).join(" ");
  return visible((content.text ?? written(content.value, null)).slice(0, 160)).replace(/\s+/g, " ");
}

const hex = (byte) => byte.toString(16).padStart(2, "0");

function hexDump(raw) {
  const lines = [];
  for (let at = 0; at < raw.length; at += 16) {
    const row = [...raw.subarray(at, at + 16)];
    const letters = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${row.map(hex).join(" ").padEnd(47)}  ${letters}`);
  }
  return lines.join("\n");
}

const utf8Length = (text) => new TextEncoder().encode(text).length;
