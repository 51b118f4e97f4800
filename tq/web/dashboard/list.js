// The list of queues: their numbers, which change every two seconds, found by name and sorted by column.

import { at, Problem } from "./api.js";
import { sparkline } from "./charts.js";
import { ask } from "./dialogs.js";
import { h, newId, setAttribute, setText } from "./dom.js";
import { DEFAULTS, Field, SettingsFields } from "./fields.js";
import { brief, bytes, count, duration, rate } from "./format.js";
import { RateMeter } from "./rates.js";
import { tiles } from "./tiles.js";

const PAGE = 100; // queues that are asked for at a time
const MOST = 1_000;
const SELDOM = 5; // refreshes from one look at history and status to the next

const total = (queue) => Object.values(queue.messages).reduce((sum, number) => sum + number, 0);

// `value` is what a column is sorted by, `text` what it shows. The most is what one wants to see first.
const COLUMNS = [
  { key: "name", label: "Queue", value: (queue) => queue.name, isText: true },
  { key: "ready", label: "Ready", value: (queue) => queue.messages.ready, text: brief },
  { key: "in_flight", label: "In flight", value: (queue) => queue.messages.in_flight, text: brief },
  { key: "delayed", label: "Delayed", value: (queue) => queue.messages.delayed, text: brief, kind: "wide" },
  { key: "blocked", label: "Blocked", value: (queue) => queue.messages.blocked, text: brief, kind: "wider" },
  {
    key: "age",
    label: "Oldest",
    value: (queue) => queue.oldest_message_age_seconds ?? -1,
    text: (age) => (age < 0 ? "–" : duration(age)),
    kind: "middle",
  },
  {
    key: "in",
    label: "In /s",
    value: (queue, rates) => rates?.sent ?? -1,
    text: (number) => rate(number < 0 ? null : number),
    kind: "wide",
  },
  {
    key: "out",
    label: "Out /s",
    value: (queue, rates) => rates?.received ?? -1,
    text: (number) => rate(number < 0 ? null : number),
    kind: "wide",
  },
];

export class ListView {
  title = "Queues · tq";
  crumb = "";

  constructor(shell) {
    this.shell = shell;
    this.queues = [];
    this.found = []; // by the server, of those that were not loaded
    this.rows = new Map();
    this.meter = new RateMeter();
    this.history = {};
    this.wanted = PAGE;
    this.refreshes = 0;
    this.order = { key: "name", isRising: true };
    this.onKey = (event) => this.press(event);
    document.addEventListener("keydown", this.onKey);
    this.build();
  }

  close() {
    document.removeEventListener("keydown", this.onKey);
  }

  press(event) {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, textarea, select, dialog"))
      return;
    event.preventDefault();
    this.search.focus();
  }

  build() {
    const id = newId("search");
    this.search = h("input", {
      id,
      type: "search",
      placeholder: "Find a queue",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.filter(),
    });
    this.tiles = tiles("five", ["Ready", "In flight", "Delayed", "Blocked", "Disk used"]);
    this.heads = COLUMNS.map((column) => this.head(column));
    this.body = h("tbody");
    this.table = h(
      "table",
      { class: "queues" },
      h("caption", { class: "unseen" }, "Queues. A button in each head sorts by its column."),
      h("thead", {}, h("tr", {}, this.heads, h("th", { scope: "col", class: "middle last" }, "Last hour"))),
      this.body,
    );
    this.empty = h("div", { class: "empty", hidden: true });
    this.more = h(
      "button",
      { type: "button", class: "plain", hidden: true, onclick: () => this.loadMore() },
      "Show more",
    );
    this.counted = h("p", { class: "sub" }, "Loading …");
    this.create = h("button", { type: "button", class: "primary", onclick: () => this.askToCreate() }, "New queue");
    this.refused = h("p", { class: "note", hidden: true });
    this.element = h(
      "div",
      {},
      h("div", { class: "title" }, h("div", {}, h("h1", {}, "Queues"), this.counted), this.create),
      this.refused,
      this.tiles.element,
      h(
        "div",
        { class: "card" },
        h("div", { class: "toolbar" }, h("label", { for: id, class: "unseen" }, "Find a queue"), this.search),
        this.table,
        this.empty,
        this.more,
      ),
    );
  }

  head(column) {
    const button = h("button", { type: "button", class: "sort", onclick: () => this.sortBy(column) }, column.label);
    return h("th", { scope: "col", class: [column.kind, column.isText ? "" : "number"].join(" ") }, button);
  }

  // --- what is asked

  async refresh(signal) {
    const isSeldom = this.refreshes % SELDOM === 0;
    try {
      const [queues, history, status] = await Promise.all([
        this.load("", signal),
        isSeldom ? this.shell.call("GET", `/history?limit=${PAGE}`, { signal }) : null,
        isSeldom ? this.shell.call("GET", "/status", { signal }) : null,
      ]);
      this.refreshes += 1;
      this.queues = queues.list;
      this.isWhole = queues.isWhole;
      if (history) this.history = history;
      if (status) this.status = status;
    } catch (error) {
      if (error instanceof Problem && error.status === 403) return this.refuse();
      throw error;
    }
    const text = this.search.value.trim();
    this.found = text && !this.isWhole ? (await this.load(text, signal, 1)).list : [];
    this.meter.take([...this.queues, ...this.found]);
    this.refused.hidden = true;
    this.tiles.element.hidden = false;
    this.render();
  }

  async load(prefix, signal, pages = this.wanted / PAGE) {
    const list = [];
    let after = "";
    for (let page = 0; page < pages && after !== null; page += 1) {
      const asked = new URLSearchParams({ prefix, after, limit: PAGE });
      const found = await this.shell.call("GET", `/queues?${asked}`, { signal });
      list.push(...found.queues);
      after = found.next;
    }
    return { list, isWhole: after === null };
  }

  loadMore() {
    this.wanted = Math.min(MOST, this.wanted + PAGE);
    this.shell.refresh();
  }

  filter() {
    this.render();
    if (!this.isWhole) this.shell.refresh();
  }

  refuse() {
    this.refused.textContent =
      "This token has no right to list queues (observe:*). A queue that it may look at opens by its name: type it and press Enter.";
    this.refused.hidden = false;
    this.tiles.element.hidden = this.table.hidden = true;
    setText(this.counted, "");
    this.search.placeholder = "Name of a queue";
    this.search.onkeydown = (event) => {
      if (event.key === "Enter" && this.search.value.trim())
        this.shell.go(`#/queues/${encodeURIComponent(this.search.value.trim())}`);
    };
  }

  // --- what is shown

  render() {
    const text = this.search.value.trim().toLowerCase();
    const known = new Map([...this.queues, ...this.found].map((queue) => [queue.name, queue]));
    const wanted = [...known.values()].filter((queue) => queue.name.toLowerCase().includes(text));
    this.showTotals(known);
    for (const [name, row] of this.rows) {
      if (!known.has(name)) {
        row.element.remove();
        this.rows.delete(name);
      }
    }
    for (const queue of wanted) this.showRow(queue);
    this.arrange(wanted);
    const isEmpty = wanted.length === 0 && this.refreshes > 0;
    this.table.hidden = isEmpty;
    this.empty.hidden = !isEmpty;
    if (isEmpty) {
      this.empty.replaceChildren(
        h("h2", {}, text ? "No queue has this in its name" : "There are no queues yet"),
        h("p", {}, text ? "Clear the search to see all." : "Make the first one here, or with one request:"),
        ...(text ? [] : [h("pre", {}, `curl ${location.origin}/queues -d '{"name": "orders"}'`)]),
      );
    }
    this.more.hidden = this.isWhole !== false || this.wanted >= MOST;
  }

  showTotals(known) {
    const { status } = this;
    if (!status) return;
    const all = [...known.values()];
    const messages = this.isWhole
      ? ["ready", "in_flight", "delayed", "blocked"].map((state) =>
          all.reduce((sum, queue) => sum + queue.messages[state], 0),
        )
      : Object.values(status.messages);
    this.tiles.show([...messages.map(count), bytes(status.storage.used_bytes)]);
    const queues = this.isWhole ? this.queues.length : status.queues;
    setText(
      this.counted,
      `${count(queues)} ${queues === 1 ? "queue" : "queues"} · tq ${status.version} · up ${duration(status.uptime_seconds)}`,
    );
  }

  showRow(queue) {
    let row = this.rows.get(queue.name);
    if (!row) {
      row = this.newRow(queue);
      this.rows.set(queue.name, row);
    }
    row.values = COLUMNS.map((column) => column.value(queue, this.ratesOf(queue)));
    COLUMNS.forEach((column, index) => {
      if (!column.isText) {
        setText(row.cells[index], column.text(row.values[index]));
        setAttribute(row.cells[index], "data-zero", row.values[index] <= 0 ? "" : null);
      }
    });
    setText(
      row.marks,
      [
        queue.paused ? "paused" : "",
        queue.fifo ? "FIFO" : "",
        queue.dead_letter ? `dead letters to ${queue.dead_letter.queue}` : "",
      ]
        .filter(Boolean)
        .join(" · "),
    );
    row.marks.classList.toggle("warn", queue.paused);
    const recent = this.history.queues?.[queue.name];
    const numbers = [...(recent?.messages ?? []), total(queue)];
    row.spark.show(numbers, 61);
    setText(row.words, `At most ${count(Math.max(...numbers))} messages`);
  }

  newRow(queue) {
    const spark = sparkline();
    const marks = h("span", { class: "marks" });
    const cells = COLUMNS.map((column) =>
      column.isText
        ? h("th", { scope: "row" }, h("a", { href: `#/queues/${encodeURIComponent(queue.name)}` }, queue.name), marks)
        : h("td", { class: [column.kind, "number"].join(" ") }),
    );
    const words = h("span", { class: "unseen" });
    const last = h("td", { class: "middle last" }, spark.element, words);
    return { cells, marks, spark, words, element: h("tr", {}, cells, last) };
  }

  // Over the last seconds, and before there are any over the last minute.
  ratesOf(queue) {
    const now = this.meter.of(queue);
    const recent = this.history.queues?.[queue.name];
    const seconds = (this.history.seconds_ago?.at(-2) ?? 0) - (this.history.seconds_ago?.at(-1) ?? 0);
    if (now || !recent || recent.sent.length < 2) return now;
    return {
      sent: (recent.sent.at(-1) - recent.sent.at(-2)) / seconds,
      received: (recent.received.at(-1) - recent.received.at(-2)) / seconds,
    };
  }

  sortBy(column) {
    const isSame = this.order.key === column.key;
    this.order = { key: column.key, isRising: isSame ? !this.order.isRising : Boolean(column.isText) };
    this.mustArrange = true;
    this.render();
  }

  // Rows keep their places while somebody points at them or has the focus there.
  arrange(wanted) {
    const index = COLUMNS.findIndex((column) => column.key === this.order.key);
    const sign = this.order.isRising ? 1 : -1;
    const compare = (one, other) => (typeof one === "string" ? one.localeCompare(other) : one - other);
    const rows = wanted.map((queue) => ({ name: queue.name, row: this.rows.get(queue.name) }));
    rows.sort((a, b) => sign * compare(a.row.values[index], b.row.values[index]) || compare(a.name, b.name));
    this.heads.forEach((head, place) =>
      setAttribute(head, "aria-sort", place === index ? (sign > 0 ? "ascending" : "descending") : null),
    );
    const elements = rows.map(({ row }) => row.element);
    const shown = [...this.body.children];
    const isSameSet = shown.length === elements.length && elements.every((element) => element.isConnected);
    const isHeld = this.body.matches(":hover, :focus-within") && isSameSet && !this.mustArrange;
    this.mustArrange = false;
    if (!isHeld && elements.some((element, place) => element !== shown[place])) {
      const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
      this.body.replaceChildren(...elements);
      focused?.focus();
    } else if (!elements.length) this.body.replaceChildren();
  }

  async askToCreate() {
    const name = new Field({ label: "Name", kind: "text" });
    const settings = new SettingsFields(true);
    settings.set(DEFAULTS);
    const more = h("details", {}, h("summary", {}, "Settings"), settings.element);
    const isDone = await ask({
      title: "New queue",
      button: "Create",
      content: [name.element, more],
      fields: { name, ...settings.fields },
      mayAct: () => name.value !== "",
      act: async () => {
        try {
          await this.shell.call("POST", "/queues", { body: { name: name.value, ...settings.changed() } });
        } catch (error) {
          if (error.field && error.field !== "name") more.open = true;
          throw error;
        }
      },
    });
    if (!isDone) return;
    this.shell.say(`The queue ${name.value} was made.`);
    this.shell.go(`#${at(name.value)}`);
  }
}
