// The messages of a queue, in each state, to look at: a page of them, and all there is of one. Looking changes nothing.

import { at, Problem } from "./api.js";
import { ask } from "./dialogs.js";
import { h, setText } from "./dom.js";
import { ago, bytes, contentOf, count, isCut, moment, parse, shown, snippet, visible } from "./format.js";

const PAGE = 20;
const CUT = 4_000; // characters of a content that are shown at first
const HEAVY = 256 * 1024; // bytes of a page that is not fetched again by itself
const STATES = { ready: "Ready", in_flight: "In flight", delayed: "Delayed", blocked: "Blocked" };
const NONE = {
  ready: "No message is ready.",
  in_flight: "No message is leased.",
  delayed: "No message waits for its time.",
  blocked: "No message waits for another of its group.",
};

export class Messages {
  constructor(name, shell) {
    this.name = name;
    this.shell = shell;
    this.state = "ready";
    this.pages = [""]; // where each page up to this one begins
    this.choices = Object.entries(STATES).map(([state, label]) => {
      const number = h("span", { class: "pill" }, "0");
      const input = h("input", {
        type: "radio",
        name: "state",
        value: state,
        checked: state === "ready",
        onchange: () => this.choose(state),
      });
      return { state, number, element: h("label", { class: "choice" }, input, h("span", {}, label, " ", number)) };
    });
    this.list = h("ol", { class: "messages" });
    this.note = h("p", { class: "note quiet-note" }, "Loading …");
    this.back = h("button", { type: "button", class: "plain", onclick: () => this.turn(-1) }, "Previous");
    this.forth = h("button", { type: "button", class: "plain", onclick: () => this.turn(1) }, "Next");
    this.page = h("span", { class: "sub" });
    this.element = h(
      "div",
      {},
      h(
        "div",
        { class: "toolbar" },
        h(
          "fieldset",
          { class: "choices" },
          h("legend", { class: "unseen" }, "State of the messages"),
          this.choices.map((choice) => choice.element),
        ),
        h("button", { type: "button", class: "plain", onclick: () => this.load() }, "Refresh"),
      ),
      this.note,
      this.list,
      h("div", { class: "pager" }, this.back, this.page, this.forth),
    );
  }

  // New counts; the messages are fetched again when theirs has changed and nobody is reading.
  async refresh(info, signal) {
    for (const { state, number } of this.choices) setText(number, count(info.messages[state]));
    const key = JSON.stringify([info.messages[this.state], info.totals.sent, info.totals.received]);
    const isAtEase =
      this.pages.length === 1 &&
      !this.isHeavy &&
      !this.list.querySelector("details[open]") &&
      !this.list.matches(":hover, :focus-within");
    if (this.key === undefined || (key !== this.key && isAtEase)) {
      this.key = key;
      await this.load(signal);
    }
  }

  forget() {
    this.key = undefined;
    this.pages = [""];
  }

  choose(state) {
    this.state = state;
    this.pages = [""];
    this.load();
  }

  turn(way) {
    if (way < 0) this.pages.pop();
    else this.pages.push(this.next);
    this.load();
  }

  async load(signal) {
    const { state } = this;
    const asked = new URLSearchParams({ state, after: this.pages.at(-1), limit: PAGE });
    let found;
    try {
      found = await this.shell.call("GET", `${at(this.name, "peek")}?${asked}`, { signal, parse });
    } catch (error) {
      if (!(error instanceof Problem) || error.status === 401) throw error;
      found = {
        messages: [],
        next: null,
        wrong: error.status === 403 ? "This token has no right to look at messages (observe)." : error.message,
      };
    }
    if (state === this.state) this.show(found);
  }

  show({ messages, next, wrong }) {
    this.next = next;
    const items = messages.map((message) => ({ message, content: contentOf(message) }));
    this.isHeavy = items.reduce((sum, { content }) => sum + content.size, 0) > HEAVY;
    this.list.replaceChildren(...items.map((item) => this.item(item)));
    setText(this.note, wrong ?? (messages.length ? "" : NONE[this.state]));
    this.note.hidden = messages.length > 0;
    this.back.disabled = this.pages.length === 1;
    this.forth.disabled = next === null;
    const isAlone = this.pages.length === 1 && next === null;
    setText(this.page, isAlone ? "" : `Page ${this.pages.length}`);
    this.back.hidden = this.forth.hidden = isAlone;
  }

  item({ message, content }) {
    const body = h("div", { class: "message" });
    const details = h(
      "details",
      { ontoggle: () => details.open && !body.hasChildNodes() && body.append(...this.whole(message, content)) },
      h(
        "summary",
        {},
        h("span", { class: "id" }, `#${message.id}`),
        h("span", { class: "snippet" }, snippet(content)),
        message.dead_letter ? h("span", { class: "badge warn" }, visible(message.dead_letter.reason)) : null,
        message.priority ? h("span", { class: "badge" }, `priority ${message.priority}`) : null,
        message.group ? h("span", { class: "badge" }, visible(message.group)) : null,
        h("span", { class: "meta" }, `${bytes(content.size)} · ${ago(message.sent_at)}`),
      ),
      body,
    );
    return h("li", {}, details);
  }

  // All there is of a message.
  whole(message, content) {
    const facts = [
      ["Content", `${visible(content.kind)}, ${bytes(content.size)}`],
      ["Sent", moment(message.sent_at)],
      ["Receives", count(message.receive_count)],
      ["Visible", message.visible_at && moment(message.visible_at)],
      ["Expires", message.expires_at && moment(message.expires_at)],
      ["Priority", message.priority],
      ["Group", message.group],
      ["Deduplication id", message.dedup_id],
      [
        "From",
        message.dead_letter &&
          `${message.dead_letter.source}, ${message.dead_letter.reason}, after ${message.dead_letter.receive_count} receives`,
      ],
      ...Object.entries(message.headers ?? {}).map(([name, value]) => [`Header ${name}`, value]),
      ...Object.entries(message.attributes ?? {}).map(([name, { type, value }]) => [
        `Attribute ${name} (${type})`,
        value,
      ]),
    ].filter(([, value]) => value);
    const text = h("pre", { tabindex: 0, "aria-label": `Content of message ${message.id}` }, shown(content, CUT));
    const parts = [
      h(
        "dl",
        { class: "facts" },
        facts.map(([label, value]) => h("div", {}, h("dt", {}, visible(label)), h("dd", {}, visible(String(value))))),
      ),
      text,
    ];
    const buttons = h("div", { class: "buttons start" });
    if (isCut(content, CUT)) {
      const all = h(
        "button",
        {
          type: "button",
          class: "plain",
          onclick: () => ((text.textContent = shown(content)), text.focus(), all.remove()),
        },
        `Show all (${bytes(content.size)})`,
      );
      buttons.append(all);
    }
    if (message.state !== "in_flight") {
      buttons.append(
        h(
          "button",
          { type: "button", class: "plain danger-text", onclick: () => this.cancel(message) },
          "Cancel message …",
        ),
      );
    }
    return [...parts, buttons];
  }

  async cancel(message) {
    const isDone = await ask({
      title: `Cancel message ${message.id}`,
      content: [h("p", {}, "It is removed from the queue and cannot be brought back.")],
      button: "Cancel message",
      isDanger: true,
      act: () => this.shell.call("DELETE", at(this.name, "messages", message.id)),
    });
    if (!isDone) return;
    this.shell.say(`Message ${message.id} was cancelled.`);
    await this.load();
    this.shell.refresh();
  }
}
