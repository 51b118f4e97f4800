// The dialogs that put messages into queues: to send one, and to bring dead letters back.

import { at, Problem } from "./api.js";
import { ask } from "./dialogs.js";
import { h } from "./dom.js";
import { Field, OptionFields } from "./fields.js";
import { count } from "./format.js";

// Each returns what was done, in a sentence, or false.

export async function askToSend(name, shell, isFifo) {
  const kind = (value, label) =>
    h(
      "label",
      { class: "choice" },
      h("input", { type: "radio", name: "kind", value, checked: value === "json" }),
      h("span", {}, label),
    );
  const kinds = h(
    "fieldset",
    { class: "choices" },
    h("legend", { class: "unseen" }, "What the content is"),
    kind("json", "JSON"),
    kind("text", "Text"),
  );
  const content = new Field({ label: "Content", kind: "area", rows: 8 });
  const options = new OptionFields();
  const more = h("details", { open: isFifo }, h("summary", {}, "Options"), options.element);
  let sent;
  const isDone = await ask({
    title: `Send to ${name}`,
    button: "Send",
    content: [kinds, content.element, more],
    fields: { content, ...options.fields },
    act: async () => {
      const isText = kinds.querySelector("input:checked").value === "text";
      try {
        sent = await shell.call("POST", at(name, "messages"), {
          body: envelope(content.value, isText, options.given()),
        });
      } catch (error) {
        if (options.fields[error.field]) more.open = true;
        throw error;
      }
    },
  });
  return isDone && (sent.duplicate ? `Message ${sent.id} was there already.` : `Message ${sent.id} was sent.`);
}

// The content goes as it was typed, digit for digit. Throws `Problem` for what is not JSON.
function envelope(text, isText, options) {
  if (!isText) {
    try {
      JSON.parse(text);
    } catch (error) {
      throw new Problem(400, { detail: `This is not JSON: ${error.message} - at \`$.content\`.` });
    }
  }
  const fields = Object.entries(options).map(([name, value]) => `,${JSON.stringify(name)}:${JSON.stringify(value)}`);
  return `{"content":${isText ? JSON.stringify(text) : text}${fields.join("")}}`;
}

export async function askToRedrive(name, shell) {
  const fields = {
    to: new Field({ label: "To", kind: "text", empty: "back to where each came from" }),
    limit: new Field({ label: "At most", unit: "messages", kind: "number", empty: "all" }),
  };
  let moved = 0;
  const isDone = await ask({
    title: "Redrive messages",
    content: [
      h(
        "p",
        {},
        "Ready messages are moved out of this queue and sent anew. What came from nowhere stays, if no queue is named.",
      ),
      ...Object.values(fields).map((field) => field.element),
    ],
    button: "Redrive",
    fields,
    act: async () => {
      const given = Object.entries(fields).map(([name, field]) => [name, field.value]);
      const body = Object.fromEntries(given.filter(([, value]) => value !== null));
      ({ moved } = await shell.call("POST", at(name, "redrive"), { body }));
    },
  });
  return isDone && `${count(moved)} messages were moved.`;
}
