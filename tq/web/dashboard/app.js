// The shell: which view the address asks for, the state of the connection, the token, and light or dark. A view is
// `{title, crumb, element, refresh(signal), close()}`; it is asked to refresh every two seconds while it is shown.

import { call, Problem } from "./api.js";
import { h, newId, setText } from "./dom.js";
import { ListView } from "./list.js";
import { Poller } from "./poll.js";
import { QueueView } from "./queue.js";
import { theme, token } from "./storage.js";

const $ = (id) => document.getElementById(id);
let view = null;
let poller = null;
let leaving = null;

// --- addresses: #/ and #/queues/{name}/{tab}

function viewOf(hash) {
  const [, kind, name, tab] = hash.split("/");
  if (kind === "queues" && name) return new QueueView(decoded(name), tab ?? "", shell);
  return new ListView(shell);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function show() {
  const [, kind, name, tab] = location.hash.split("/");
  if (kind === "queues" && view instanceof QueueView && view.name === decoded(name ?? "")) {
    view.open(tab ?? "");
    return;
  }
  poller?.stop();
  leaving?.abort();
  view?.close();
  leaving = new AbortController();
  const isFirst = view === null;
  view = viewOf(location.hash);
  document.title = view.title;
  $("crumb").replaceChildren(view.crumb);
  $("main").replaceChildren(view.element);
  if (!isFirst) $("main").focus({ preventScroll: true });
  scrollTo(0, 0);
  const { signal } = leaving;
  const shown = view;
  poller = new Poller(() => shown.refresh(signal), { failed, worked });
}

// --- the connection

function worked() {
  setState("live", "Live");
  if (!$("lost").hidden) shell.say("Connected again.");
  $("lost").hidden = true;
  document.body.classList.remove("stale");
}

// Returns true when asking again is of no use by itself.
function failed(error, wait) {
  if (!(error instanceof Problem)) reportError(error);
  if (error.status === 401) {
    setState("off", "No token");
    askForToken(error);
    return true;
  }
  setState("off", "Not connected");
  document.body.classList.add("stale");
  const what = error.status
    ? `The server says: ${error.title}`
    : error instanceof Problem
      ? "Connection lost."
      : "This page has a fault.";
  $("lost").replaceChildren(
    h("span", {}, `${what} Trying again in ${Math.round(wait / 1000)} s.`),
    h("button", { type: "button", class: "plain", onclick: () => poller.now() }, "Try now"),
  );
  $("lost").hidden = false;
  return false;
}

function setState(kind, text) {
  $("state").className = `state ${kind}`;
  setText($("state"), text);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) setState("off", "Paused");
});

// --- the token

function askForToken(error) {
  if ($("token")) {
    $("token-wrong").textContent = token.get() ? error.sentence : "";
    return;
  }
  const wrong = h("p", { id: "token-wrong", class: "wrong", role: "alert" }, token.get() ? error.sentence : "");
  const input = h("input", {
    id: "token",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": "token-help",
  });
  const heading = newId("heading");
  const form = h(
    "form",
    {
      class: "card token",
      "aria-labelledby": heading,
      onsubmit: (event) => {
        event.preventDefault();
        token.set(input.value.trim());
        $("forget").hidden = false;
        $("main").replaceChildren(view.element);
        poller.now();
      },
    },
    h("h1", { id: heading }, "This server asks for a token"),
    h("div", { class: "field" }, h("label", { for: "token" }, "Token"), input),
    h(
      "p",
      { id: "token-help", class: "help" },
      "Made with tq token create. It is kept in this tab only, until you close it or forget it.",
    ),
    wrong,
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Use this token")),
  );
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  $("main").replaceChildren(form);
  input.focus();
}

$("forget").hidden = !token.get();
$("forget").addEventListener("click", () => {
  token.forget();
  location.reload();
});

// --- light and dark

const THEMES = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" };

function setTheme(name) {
  const known = name in THEMES ? name : "auto";
  document.documentElement.dataset.theme = known;
  setText($("theme"), THEMES[known]);
}

$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
  theme.set(next);
  setTheme(next);
});
setTheme(theme.get());

// --- what views use

const shell = {
  call: (method, path, options = {}) => call(method, path, options),
  refresh: () => poller.now(),
  // A sentence at the foot of the page, for a while, which screen readers say too.
  say(sentence) {
    const line = h("p", {}, sentence);
    $("said").replaceChildren(line);
    setTimeout(() => line.remove(), 6_000);
  },
  go(hash) {
    location.hash = hash;
  },
};

addEventListener("hashchange", show);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
show();
