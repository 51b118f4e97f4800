// A row of large numbers with their labels.

import { h, setText } from "./dom.js";

export function tiles(kind, labels) {
  const numbers = labels.map(() => h("dd", {}, "–"));
  const parts = labels.map((label, index) => h("div", { class: "tile" }, h("dt", {}, label), numbers[index]));
  return {
    element: h("dl", { class: `tiles ${kind}` }, parts),
    show: (texts) => texts.forEach((text, index) => setText(numbers[index], text)),
  };
}
