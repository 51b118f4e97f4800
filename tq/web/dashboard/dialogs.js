// Dialogs: the browser keeps the focus in them, closes them on Escape, and gives the focus back.

import { Problem } from "./api.js";
import { h, newId } from "./dom.js";

// Opens a dialog and closes it when `act` has done what its button says. What the server says no with is shown: at a
// field that `fields` knows by its name, or above the buttons. Resolves to whether it was done.
export function ask({ title, content = [], button, isDanger = false, fields = {}, mayAct = () => true, act }) {
  const heading = newId("dialog");
  const wrong = h("p", { class: "wrong", role: "alert", hidden: true });
  const confirm = h("button", { type: "submit", class: isDanger ? "danger" : "primary" }, button);
  const form = h(
    "form",
    { novalidate: true },
    h("h2", { id: heading }, title),
    ...content,
    wrong,
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Cancel"),
      confirm,
    ),
  );
  const dialog = h("dialog", { "aria-labelledby": heading }, form);
  const opener = document.activeElement;
  let isDone = false;
  const judge = () => (confirm.disabled = !mayAct());
  form.addEventListener("input", judge);
  judge();
  document.body.append(dialog);
  dialog.showModal();
  form.querySelector("input:not([type=radio]), textarea, select")?.focus();
  return new Promise((resolve) => {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!mayAct()) return;
      confirm.disabled = true;
      wrong.hidden = true;
      for (const field of Object.values(fields)) field.say("");
      try {
        await act();
        isDone = true;
        dialog.close();
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        tell(error, fields, wrong);
      } finally {
        judge();
      }
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (opener?.isConnected) opener.focus();
      resolve(isDone);
    });
  });
}

// Shows what is wrong: at the field that it is about, if that is here, else in `place`.
export function tell(problem, fields, place) {
  const name = [problem.field, problem.field.split(".")[0]].find((one) => one && fields[one]);
  if (name) {
    fields[name].say(problem.sentence);
    fields[name].focus();
  } else {
    place.textContent = problem.message;
    place.hidden = false;
  }
}

// For what cannot be undone: the button works when the name was typed.
export function askByName({ title, sentence, name, button, act }) {
  const id = newId("name");
  const input = h("input", { id, autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
  const content = [
    h("p", {}, sentence),
    h("div", { class: "field" }, h("label", { for: id }, "Type ", h("strong", {}, name), " to go on"), input),
  ];
  return ask({ title, content, button, isDanger: true, mayAct: () => input.value === name, act });
}
