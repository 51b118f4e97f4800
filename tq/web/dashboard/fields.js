// The fields of forms: of all settings of a queue, and of what a message may have beside its content.

import { h, newId } from "./dom.js";

// Of each: how it is read and written. `number` and `text` may be `empty`, which is null; `choice` has its values.
const SETTINGS = [
  {
    name: "visibility_timeout",
    label: "Lease",
    unit: "seconds",
    kind: "number",
    help: "How long a message stays hidden when a receive does not say.",
  },
  { name: "delay", label: "Delay", unit: "seconds", kind: "number", help: "Before a sent message can be received." },
  {
    name: "ttl",
    label: "Time to live",
    unit: "seconds",
    kind: "number",
    empty: "for ever",
    help: "After which an unconsumed message is dropped.",
  },
  {
    name: "retention",
    label: "Retention",
    unit: "seconds",
    kind: "number",
    empty: "for ever",
    help: "After which a message is dropped wherever it is, in flight too.",
  },
  { name: "max_messages", label: "Most messages", kind: "number", empty: "no limit" },
  { name: "max_bytes", label: "Most content", unit: "bytes", kind: "number", empty: "no limit" },
  {
    name: "overflow",
    label: "When it is full",
    kind: "choice",
    values: { reject: "Refuse sends", drop_oldest: "Drop the oldest" },
  },
  { name: "max_message_bytes", label: "Largest message", unit: "bytes", kind: "number" },
  {
    name: "max_in_flight",
    label: "Most in flight",
    kind: "number",
    empty: "no limit",
    help: "A receive of more is refused.",
  },
  {
    name: "receive_wait",
    label: "Wait over SQS",
    unit: "seconds",
    kind: "number",
    help: "When a receive over SQS does not say.",
  },
  { name: "dedup_window", label: "Deduplication window", unit: "seconds", kind: "number" },
  {
    name: "dedup_scope",
    label: "Deduplication ids are known in",
    kind: "choice",
    values: { queue: "The queue", group: "Their group" },
  },
  { name: "content_dedup", label: "Deduplicate by content", kind: "flag" },
  { name: "paused", label: "Paused: receives find nothing", kind: "flag" },
];
const FIFO = { name: "fifo", label: "FIFO queue: its name ends with .fifo", kind: "flag" };
const LETTER = [
  {
    name: "dead_letter.queue",
    label: "Queue",
    kind: "text",
    empty: "none",
    help: "Empty: messages are tried for ever.",
  },
  { name: "dead_letter.max_receives", label: "After so many receives", kind: "number", empty: "" },
  { name: "dead_letter.on_expiry", label: "Also when the time to live is over", kind: "flag" },
  { name: "dead_letter.on_receive", label: "Not before it would be received again, as in SQS", kind: "flag" },
];
const OPTIONS = [
  { name: "delay", label: "Delay", unit: "seconds", kind: "number", empty: "the queue's" },
  { name: "ttl", label: "Time to live", unit: "seconds", kind: "number", empty: "the queue's" },
  { name: "priority", label: "Priority", kind: "number", empty: "0 to 9" },
  { name: "group", label: "Group", kind: "text", empty: "none" },
  { name: "dedup_id", label: "Deduplication id", kind: "text", empty: "none" },
];

// What a new queue has when nothing is said.
export const DEFAULTS = {
  visibility_timeout: 30,
  delay: 0,
  overflow: "reject",
  max_message_bytes: 1_048_576,
  receive_wait: 0,
  dedup_window: 300,
  dedup_scope: "queue",
};

// A labelled control. `value` is what goes into JSON; `say` shows what is wrong with it.
export class Field {
  constructor(about) {
    this.about = about;
    const id = newId("field");
    const help = h("p", { id: `${id}-help`, class: "help", hidden: !about.help }, about.help ?? "");
    this.wrong = h("p", { id: `${id}-wrong`, class: "wrong", hidden: true });
    this.input = control(about, id);
    this.input.setAttribute("aria-describedby", `${id}-help ${id}-wrong`);
    const label = h(
      "label",
      { for: id },
      about.label,
      about.unit ? h("span", { class: "unit" }, ` ${about.unit}`) : null,
    );
    const isFlag = about.kind === "flag";
    this.element = h(
      "div",
      { class: isFlag ? "field flag" : "field" },
      ...(isFlag ? [this.input, label] : [label, this.input]),
      help,
      this.wrong,
    );
  }

  set(value) {
    if (this.about.kind === "flag") this.input.checked = Boolean(value);
    else this.input.value = value ?? "";
    this.before = JSON.stringify(this.value);
  }

  // What was typed and is no number goes to the server as it is, which says what is wrong with it.
  get value() {
    const { kind } = this.about;
    if (kind === "flag") return this.input.checked;
    const text = kind === "area" ? this.input.value : this.input.value.trim();
    if (text === "" && this.about.empty !== undefined) return null;
    const isNumber = kind === "number" && text !== "" && Number.isFinite(Number(text));
    return isNumber ? Number(text) : text;
  }

  get isChanged() {
    return JSON.stringify(this.value) !== this.before;
  }

  say(sentence) {
    this.wrong.textContent = sentence;
    this.wrong.hidden = !sentence;
    if (sentence) this.input.setAttribute("aria-invalid", "true");
    else this.input.removeAttribute("aria-invalid");
  }

  focus() {
    this.input.focus();
  }
}

function control({ kind, values, empty, rows }, id) {
  if (kind === "flag") return h("input", { id, type: "checkbox" });
  if (kind === "area") return h("textarea", { id, rows, spellcheck: "false" });
  if (kind === "choice")
    return h(
      "select",
      { id },
      Object.entries(values).map(([value, label]) => h("option", { value }, label)),
    );
  return h("input", {
    id,
    type: "text",
    inputmode: kind === "number" ? "decimal" : "text",
    placeholder: empty ?? null,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
  });
}

const made = (list) => Object.fromEntries(list.map((about) => [about.name, new Field(about)]));

// All settings of a queue, in two groups; `isNew` for one that is still to be made.
export class SettingsFields {
  constructor(isNew = false) {
    this.plain = made(isNew ? [FIFO, ...SETTINGS] : SETTINGS);
    this.letter = made(LETTER);
    this.fields = { ...this.plain, ...this.letter };
    this.element = h(
      "div",
      {},
      h(
        "div",
        { class: "fields" },
        Object.values(this.plain).map((field) => field.element),
      ),
      h(
        "fieldset",
        {},
        h("legend", {}, "Dead letters"),
        h(
          "div",
          { class: "fields" },
          Object.values(this.letter).map((field) => field.element),
        ),
      ),
    );
  }

  set(settings) {
    for (const [name, field] of Object.entries(this.plain)) field.set(settings[name]);
    for (const [name, field] of Object.entries(this.letter))
      field.set(settings.dead_letter?.[name.split(".")[1]] ?? null);
  }

  // Those that were changed since `set`, as a body of a PATCH has them.
  changed() {
    const found = {};
    for (const [name, field] of Object.entries(this.plain)) if (field.isChanged) found[name] = field.value;
    if (Object.values(this.letter).some((field) => field.isChanged)) {
      const values = Object.entries(this.letter).map(([name, field]) => [name.split(".")[1], field.value]);
      const letter = Object.fromEntries(values.filter(([, value]) => value !== null));
      found.dead_letter = letter.queue ? letter : null;
    }
    return found;
  }
}

// What a message may have beside its content.
export class OptionFields {
  constructor() {
    this.fields = made(OPTIONS);
    this.headers = new HeadersField();
    this.element = h(
      "div",
      {},
      h(
        "div",
        { class: "fields" },
        Object.values(this.fields).map((field) => field.element),
      ),
      this.headers.element,
    );
    this.fields.headers = this.headers;
  }

  given() {
    const values = Object.entries(this.fields).map(([name, field]) => [name, field.value]);
    return Object.fromEntries(values.filter(([, value]) => value !== null));
  }
}

class HeadersField extends Field {
  constructor() {
    super({ name: "headers", label: "Headers", kind: "area", rows: 2, help: "One on each line: name: value" });
  }

  get value() {
    const lines = this.input.value.split("\n").filter((line) => line.trim());
    if (!lines.length) return null;
    return Object.fromEntries(
      lines.map((line) => [line.split(":")[0].trim(), line.split(":").slice(1).join(":").trim()]),
    );
  }
}
