// Makes and changes elements. Everything from outside becomes text: nothing here, or anywhere else, takes HTML.

const SVG = "http://www.w3.org/2000/svg";

// An element: `h("button", {class: "primary", onclick: send}, "Send")`. Of the properties, those that are false or null
// are left out, functions listen, and the others are attributes. Children are elements and texts; null is none.
export function h(tag, properties = {}, ...children) {
  return dress(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), properties, children);
}

function dress(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// What is the same already is not touched, so that selections stay and nothing is read out again.
export function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

let last = 0;

export function newId(what) {
  last += 1;
  return `${what}-${last}`;
}
