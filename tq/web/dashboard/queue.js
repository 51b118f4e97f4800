// The page of one queue: its numbers and charts, what can be done with it, and three tabs: messages, settings, totals.

import { at, Problem } from "./api.js";
import { Chart, COUNTS, rates, TENTHS, TIMES } from "./charts.js";
import { askByName, tell } from "./dialogs.js";
import { h, setText } from "./dom.js";
import { SettingsFields } from "./fields.js";
import { brief, bytes, count, duration, moment, rate } from "./format.js";
import { Messages } from "./messages.js";
import { RateMeter } from "./rates.js";
import { askToRedrive, askToSend } from "./sending.js";
import { tiles } from "./tiles.js";

const SELDOM = 3; // refreshes from one look at the history to the next
const TABS = { "": "Messages", settings: "Settings", totals: "Totals" };
const TILES = ["Ready", "In flight", "Delayed", "Blocked", "Oldest", "Size", "In /s", "Out /s"];
const TOTALS = {
  sent: "Sent",
  duplicates: "Refused as duplicates",
  received: "Received",
  acked: "Acknowledged",
  released: "Released",
  timed_out: "Leases timed out",
  expired: "Expired",
  dead_lettered: "Dead-lettered",
  redriven: "Redriven",
  purged: "Purged",
  dropped: "Dropped",
  cancelled: "Cancelled",
  quarantined: "Quarantined",
};
// What is said of a queue that cannot be looked at.
const GONE = {
  invalid_queue_name: "There is no such queue",
  queue_not_found: "There is no such queue",
  queue_damaged: "The queue is damaged",
  forbidden: "This token has no right to this queue",
};

export class QueueView {
  constructor(name, tab, shell) {
    this.name = name;
    this.title = `${name} · tq`;
    this.crumb = h(
      "span",
      {},
      h("span", { class: "slash", "aria-hidden": "true" }, "/"),
      h("a", { href: "#/" }, "Queues"),
      h("span", { class: "slash", "aria-hidden": "true" }, "/"),
      h("span", { class: "here", "aria-current": "page" }, name),
    );
    this.shell = shell;
    this.meter = new RateMeter();
    this.recently = { sent: null, received: null };
    this.refreshes = 0;
    this.messages = new Messages(name, this.with("manage"));
    this.build();
    this.open(tab);
  }

  close() {
    for (const chart of this.charts) chart.close();
  }

  // --- what it is made of

  build() {
    this.marks = h("p", { class: "sub" }, "Loading …");
    this.refused = h("p", { class: "note", role: "status", hidden: true });
    this.unable = h("p", { class: "note", role: "status", hidden: true });
    this.gone = h("div", { class: "card empty", hidden: true });
    this.tiles = tiles("eight", TILES);
    const lines = (...rows) => rows.map(([label, kind]) => ({ label, kind }));
    this.charts = [
      new Chart(
        "Messages",
        lines(["Ready", "ready"], ["In flight", "in-flight"], ["Delayed", "delayed"], ["Blocked", "blocked"]),
        brief,
        COUNTS,
      ),
      new Chart(
        "Messages per second",
        lines(["Sent", "sent"], ["Received", "received"], ["Acknowledged", "acked"]),
        rate,
        TENTHS,
      ),
      new Chart("Age of the oldest message", lines(["Age", "age"]), duration, TIMES),
    ];
    this.unseen = h("p", { class: "note", hidden: true });
    this.drawn = h("div", { class: "charts" }, ...this.charts.map((chart) => chart.element));
    this.whole = h(
      "div",
      {},
      h(
        "div",
        { class: "title" },
        h("div", {}, h("h1", { class: "name" }, this.name), this.marks),
        this.buildActions(),
      ),
      this.refused,
      this.unable,
      this.tiles.element,
      this.unseen,
      this.drawn,
      this.buildTabs(),
    );
    this.element = h("div", {}, this.whole, this.gone);
  }

  buildActions() {
    const button = (label, kind, act) =>
      h("button", { type: "button", class: kind, onclick: () => this.attempt(act) }, label);
    this.sendButton = button("Send a message", "primary", () =>
      askToSend(this.name, this.with("send"), this.info?.fifo),
    );
    this.pauseButton = button("Pause", "plain", () => this.pause());
    this.managing = [
      this.pauseButton,
      button("Redrive …", "plain", () => askToRedrive(this.name, this.with("manage"))),
      button("Purge …", "plain", () => this.purge()),
      button("Delete …", "plain danger-text", () => this.delete()),
    ];
    return h("div", { class: "actions" }, this.sendButton, this.managing);
  }

  buildTabs() {
    this.settings = new SettingsFields();
    this.wrong = h("p", { class: "wrong", role: "alert", hidden: true });
    this.save = h("button", { type: "submit", class: "primary" }, "Save settings");
    this.kinds = h("p", { class: "help" });
    const form = h(
      "form",
      { novalidate: true, class: "settings", onsubmit: (event) => this.saveSettings(event) },
      this.settings.element,
      this.kinds,
      this.wrong,
      h(
        "div",
        { class: "buttons start" },
        this.save,
        h("button", { type: "button", class: "plain", onclick: () => this.resetSettings() }, "Undo changes"),
      ),
    );
    this.totals = Object.fromEntries(Object.keys(TOTALS).map((name) => [name, h("dd", {}, "–")]));
    const totals = h(
      "dl",
      { class: "totals" },
      Object.entries(TOTALS).map(([name, label]) => h("div", {}, h("dt", {}, label), this.totals[name])),
    );
    this.panels = { "": this.messages.element, settings: form, totals };
    this.links = Object.entries(TABS).map(([tab, label]) =>
      h("a", { href: `#${at(this.name, ...(tab ? [tab] : []))}` }, label),
    );
    return h(
      "div",
      { class: "card tabbed" },
      h("nav", { class: "tabs", "aria-label": "Of this queue" }, this.links),
      Object.values(this.panels),
    );
  }

  open(tab) {
    const known = tab in TABS ? tab : "";
    Object.keys(TABS).forEach((name, index) => {
      this.panels[name].hidden = name !== known;
      if (name === known) this.links[index].setAttribute("aria-current", "page");
      else this.links[index].removeAttribute("aria-current");
    });
  }

  // --- what is asked and shown

  async refresh(signal) {
    const isSeldom = this.refreshes % SELDOM === 0;
    try {
      this.info = await this.shell.call("GET", at(this.name), { signal });
    } catch (error) {
      if (!(error.code in GONE)) throw error;
      return this.showGone(error);
    }
    this.whole.hidden = false;
    this.gone.hidden = true;
    this.show();
    await this.messages.refresh(this.info, signal);
    if (isSeldom && this.unseen.hidden) await this.showHistory(signal);
    this.refreshes += 1;
  }

  showGone(error) {
    this.whole.hidden = true;
    this.gone.hidden = false;
    this.gone.replaceChildren(
      h("h1", {}, GONE[error.code]),
      h("p", {}, error.message),
      h("p", {}, h("a", { href: "#/" }, "All queues")),
    );
  }

  show() {
    const { info } = this;
    this.meter.take([info]);
    const now = this.meter.of(info) ?? this.recently;
    const { messages } = info;
    this.tiles.show([
      ...["ready", "in_flight", "delayed", "blocked"].map((state) => count(messages[state])),
      duration(info.oldest_message_age_seconds),
      bytes(info.bytes),
      rate(now.sent),
      rate(now.received),
    ]);
    const letter = info.dead_letter;
    const marks = [
      info.paused ? h("strong", { class: "badge warn" }, "Paused") : null,
      info.fifo ? h("span", { class: "badge" }, "FIFO") : null,
      h("span", {}, `Created ${moment(info.created_at)}`),
      letter
        ? h(
            "span",
            {},
            "Dead letters to ",
            h("a", { href: `#${at(letter.queue)}` }, letter.queue),
            ` after ${letter.max_receives} receives`,
          )
        : null,
    ];
    const key = JSON.stringify([info.paused, letter]);
    if (key !== this.shownMarks) this.marks.replaceChildren(...marks.filter(Boolean));
    this.shownMarks = key;
    setText(this.pauseButton, info.paused ? "Resume" : "Pause");
    setText(
      this.kinds,
      info.fifo ? "This is a FIFO queue; that cannot be changed." : "This is no FIFO queue; that cannot be changed.",
    );
    for (const [name, element] of Object.entries(this.totals)) setText(element, count(info.totals[name]));
    const settings = JSON.stringify(Object.keys(this.settings.plain).map((setting) => info[setting]));
    const isFirst = this.shownSettings === undefined;
    if (isFirst || (settings + key !== this.shownSettings && !this.isTouched)) this.resetSettings();
    this.shownSettings = settings + key;
  }

  async showHistory(signal) {
    let history;
    try {
      history = await this.shell.call("GET", at(this.name, "history"), { signal });
    } catch (error) {
      if (!(error instanceof Problem && error.status === 403)) throw error;
      this.unseen.textContent = "This token has no right to see the history (observe).";
      this.unseen.hidden = false;
      this.drawn.hidden = true;
      return;
    }
    const { seconds_ago: ages, figures } = history;
    const over = Math.max(2, Math.round(ages.length / 100));
    const perSecond = (counter) => rates(ages, figures[counter], over);
    this.charts[0].show(ages, [figures.ready, figures.in_flight, figures.delayed, figures.blocked]);
    this.charts[1].show(ages, [perSecond("sent"), perSecond("received"), perSecond("acked")]);
    this.recently = { sent: perSecond("sent").at(-1) ?? null, received: perSecond("received").at(-1) ?? null };
    this.charts[2].show(ages, [figures.oldest_message_age_seconds.map((age) => age ?? 0)]);
  }

  // --- what can be done

  // Does something, asks for the new numbers, and says why not where it may not be done.
  async attempt(act) {
    try {
      this.refused.hidden = true;
      const sentence = await act();
      if (sentence) this.shell.say(sentence);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status !== 403) {
        this.refused.textContent = error.message;
        this.refused.hidden = false;
      }
    }
    if (!this.isOver) this.shell.refresh();
  }

  // The shell for what takes a right: where the token has it not, what takes it too can be pressed no more.
  with(right) {
    const call = async (...asked) => {
      try {
        return await this.shell.call(...asked);
      } catch (error) {
        if (error.status === 403 && asked[0] !== "GET") this.refuse(right);
        throw error;
      }
    };
    return { ...this.shell, call };
  }

  refuse(right) {
    const what = { send: "send to this queue", manage: "change this queue" };
    for (const button of right === "send" ? [this.sendButton] : [...this.managing, this.save]) {
      button.disabled = true;
      button.title = `This token has no right to ${what[right]} (${right}).`;
    }
    this.unable.textContent = `This token has no right to ${what[right]} (${right}).`;
    this.unable.hidden = false;
  }

  async pause() {
    const isPaused = !this.info.paused;
    this.info = await this.with("manage").call("PATCH", at(this.name), { body: { paused: isPaused } });
    if (!this.isTouched) this.resetSettings();
    this.show();
    return isPaused ? "Paused: receives find nothing." : "Resumed.";
  }

  async purge() {
    let purged = 0;
    const isDone = await askByName({
      title: "Purge the queue",
      sentence: "All of its messages are dropped, in flight too. They cannot be brought back.",
      name: this.name,
      button: "Purge",
      act: async () => ({ purged } = await this.with("manage").call("DELETE", at(this.name, "messages"))),
    });
    this.messages.forget();
    return isDone && `${count(purged)} messages were purged.`;
  }

  async delete() {
    const isDone = await askByName({
      title: "Delete the queue",
      sentence: "The queue goes with all of its messages. It cannot be brought back.",
      name: this.name,
      button: "Delete",
      act: () => this.with("manage").call("DELETE", at(this.name)),
    });
    this.isOver = isDone;
    if (isDone) this.shell.go("#/");
    return isDone && `The queue ${this.name} was deleted.`;
  }

  // --- settings

  get isTouched() {
    return Object.values(this.settings.fields).some((field) => field.isChanged);
  }

  resetSettings() {
    this.settings.set(this.info);
    for (const field of Object.values(this.settings.fields)) field.say("");
    this.wrong.hidden = true;
  }

  async saveSettings(event) {
    event.preventDefault();
    for (const field of Object.values(this.settings.fields)) field.say("");
    this.wrong.hidden = true;
    const change = this.settings.changed();
    if (!Object.keys(change).length) return this.shell.say("Nothing was changed.");
    try {
      this.info = await this.with("manage").call("PATCH", at(this.name), { body: change });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return tell(error, this.settings.fields, this.wrong);
    }
    this.resetSettings();
    this.show();
    this.shell.say("The settings were saved.");
  }
}
