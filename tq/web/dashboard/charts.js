// Charts of the last hour as SVG: sparklines for the list, and charts with axes whose numbers can be read out with the
// pointer or, where they are focused, with the arrow keys. What they show is said in words beside them.

import { h, newId, setText, svg } from "./dom.js";
import { minuteOfDay, timeOfDay } from "./format.js";

const HEIGHT = 190;
const MARGIN = { top: 10, right: 10, bottom: 22 };
const LETTER = 6.7; // pixels that one of an axis takes at the most
const SPANS_S = [300, 900, 1_800, 3_600];
export const COUNTS = [1];
export const TENTHS = [0.1, 0.2, 0.5, 1];
export const TIMES = [1, 5, 10, 20, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400];
const GAP_S = 30; // between two samples; where there are more, the line is broken

// --- sparklines ---

export function sparkline() {
  const area = svg("path", { class: "spark-area" });
  const line = svg("path", { class: "spark-line" });
  const element = svg(
    "svg",
    { class: "spark", viewBox: "0 0 120 28", preserveAspectRatio: "none", "aria-hidden": "true" },
    area,
    line,
  );
  let drawn = "";
  return {
    element,
    // The last number stands at the right, however many there are.
    show(numbers, most) {
      const key = numbers.join();
      if (key === drawn) return;
      drawn = key;
      const top = Math.max(1, ...numbers);
      const points = numbers.map((number, index) => [
        118 - ((numbers.length - 1 - index) * 116) / Math.max(1, most - 1),
        25 - (number / top) * 22,
      ]);
      const path = points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
      line.setAttribute("d", points.length > 1 ? `M${path}` : "");
      area.setAttribute("d", points.length > 1 ? `M${path}L118 26.5L${points[0][0].toFixed(1)} 26.5Z` : "");
    },
  };
}

// --- charts ---

// A chart of one or more series, each `{label, kind}`; the kind chooses colour and dashes. `format` writes a number, and
// `steps` are those of its axis before it goes on by powers of ten.
export class Chart {
  constructor(title, series, format, steps) {
    this.title = title;
    this.steps = steps;
    this.series = series;
    this.format = format;
    this.plot = svg("svg", { class: "plot", "aria-hidden": "true" });
    this.readout = h("div", { class: "readout", hidden: true });
    this.stage = h(
      "div",
      {
        class: "stage",
        tabindex: 0,
        role: "slider",
        "aria-label": `${title}, by time. Arrow keys move through the last hour.`,
        "aria-valuemin": 0,
        onpointermove: (event) => this.point(event),
        onpointerleave: () => this.leave(),
        onblur: () => this.leave(),
        onkeydown: (event) => this.press(event),
      },
      this.plot,
      this.readout,
    );
    this.legend = series.map((one) => h("dd", {}, "–"));
    const id = newId("chart");
    this.element = h(
      "section",
      { class: "card chart", "aria-labelledby": id },
      h("h2", { id }, title),
      h(
        "dl",
        { class: "legend" },
        series.map((one, index) => h("div", {}, h("dt", {}, swatch(one.kind), one.label), this.legend[index])),
      ),
      this.stage,
    );
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.stage);
    this.ages = [];
    this.columns = series.map(() => []);
    this.index = null;
  }

  close() {
    this.watch.disconnect();
  }

  // `ages` in seconds, the oldest first, and a column of numbers (or nulls) for each series.
  show(ages, columns) {
    this.at_ms = Date.now();
    this.ages = ages;
    this.columns = columns;
    columns.forEach((column, index) => {
      const known = column.filter((number) => number !== null);
      const now = column.length ? column.at(-1) : null;
      const most = known.length ? ` · most ${this.format(Math.max(...known))}` : "";
      this.legend[index].parentElement.hidden = this.isIdle(index);
      setText(this.legend[index], column.length ? `${now === null ? "–" : this.format(now)}${most}` : "–");
    });
    this.stage.setAttribute("aria-valuemax", Math.max(0, ages.length - 1));
    this.draw();
  }

  draw() {
    const width = this.stage.clientWidth;
    if (!width) return;
    this.span = SPANS_S.find((span) => span >= (this.ages[0] ?? 0) - 10) ?? SPANS_S.at(-1);
    const most = Math.max(0, ...this.columns.flat().filter((number) => number !== null));
    const step = niceStep(most / 3, this.steps);
    this.top = Math.max(step, Math.ceil(most / step) * step);
    this.numbers = Array.from({ length: Math.round(this.top / step) + 1 }, (_, index) => index * step);
    const longest = Math.max(...this.numbers.map((number) => this.format(number).length));
    this.left = Math.max(32, 14 + longest * LETTER);
    this.x = (age) => this.left + Math.max(0, 1 - age / this.span) * (width - this.left - MARGIN.right);
    this.y = (number) => HEIGHT - MARGIN.bottom - (number / this.top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const parts = [...this.axes(width), ...this.lines()];
    if (!this.ages.length)
      parts.push(
        svg("text", { class: "tick", x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "No samples yet"),
      );
    this.mark = svg("g", { class: "mark" });
    this.plot.replaceChildren(...parts, this.mark);
    this.point_at(this.index);
  }

  // The first two series are always shown, the others when there is something.
  isIdle(index) {
    return index > 1 && this.columns[index].every((number) => !number);
  }

  axes(width) {
    const right = width - MARGIN.right;
    const parts = [];
    for (const number of this.numbers) {
      const y = this.y(number);
      parts.push(svg("line", { class: number ? "grid" : "axis", x1: this.left, x2: right, y1: y, y2: y }));
      parts.push(svg("text", { class: "tick", x: this.left - 8, y: y + 4, "text-anchor": "end" }, this.format(number)));
    }
    const pieces = width < 420 ? 2 : 4;
    for (let piece = 0; piece <= pieces; piece += 1) {
      const age = (this.span * (pieces - piece)) / pieces;
      const anchor = piece === 0 ? "start" : piece === pieces ? "end" : "middle";
      const text = age ? minuteOfDay(Date.now() - age * 1_000) : "now";
      parts.push(svg("text", { class: "tick", x: this.x(age), y: HEIGHT - 5, "text-anchor": anchor }, text));
    }
    return parts;
  }

  lines() {
    return this.columns.flatMap((column, index) => {
      if (this.isIdle(index)) return [];
      let path = "";
      let before = null;
      column.forEach((number, place) => {
        const age = this.ages[place];
        if (number === null) {
          before = null;
          return;
        }
        const joins = before !== null && before - age < GAP_S;
        path += `${joins ? "L" : "M"}${this.x(age).toFixed(1)} ${this.y(number).toFixed(1)}`;
        before = age;
      });
      return path ? [svg("path", { class: `line ${this.series[index].kind}`, d: path })] : [];
    });
  }

  // --- reading out

  point(event) {
    if (!this.ages.length) return;
    const x = event.clientX - this.stage.getBoundingClientRect().left;
    let nearest = 0;
    this.ages.forEach((age, index) => {
      if (Math.abs(this.x(age) - x) < Math.abs(this.x(this.ages[nearest]) - x)) nearest = index;
    });
    this.point_at(nearest);
  }

  press(event) {
    const last = this.ages.length - 1;
    const step = event.shiftKey ? 12 : 1;
    const from = this.index ?? last + 1;
    const to = {
      ArrowLeft: from - step,
      ArrowDown: from - step,
      ArrowRight: from + step,
      ArrowUp: from + step,
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Escape") this.leave();
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.point_at(Math.min(last, Math.max(0, to)));
  }

  leave() {
    this.point_at(null);
  }

  point_at(index) {
    this.index = index !== null && index < this.ages.length ? index : null;
    this.mark?.replaceChildren();
    this.readout.hidden = this.index === null;
    const place = this.index ?? this.ages.length - 1;
    this.stage.setAttribute("aria-valuenow", Math.max(0, place));
    this.stage.setAttribute("aria-valuetext", this.sentence(place));
    if (this.index === null) return;
    const x = this.x(this.ages[index]);
    this.mark.append(svg("line", { class: "cursor", x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    this.readout.replaceChildren(h("strong", {}, timeOfDay(this.at_ms - this.ages[index] * 1_000)));
    this.columns.forEach((column, place) => {
      if (this.isIdle(place)) return;
      const number = column[index];
      const { kind, label } = this.series[place];
      if (number !== null) this.mark.append(svg("circle", { class: `dot ${kind}`, cx: x, cy: this.y(number), r: 3.5 }));
      this.readout.append(h("span", {}, swatch(kind), `${label} ${number === null ? "–" : this.format(number)}`));
    });
    const isLeft = x > this.stage.clientWidth / 2;
    this.readout.style.left = isLeft ? "" : `${x + 12}px`;
    this.readout.style.right = isLeft ? `${this.stage.clientWidth - x + 12}px` : "";
  }

  sentence(index) {
    if (index < 0) return "No samples yet";
    const parts = this.columns.map((column, place) => {
      const number = column[index];
      return `${this.series[place].label} ${number === null ? "none" : this.format(number)}`;
    });
    return `${timeOfDay(this.at_ms - this.ages[index] * 1_000)}: ${parts.join(", ")}`;
  }
}

function swatch(kind) {
  return svg(
    "svg",
    { class: "swatch", viewBox: "0 0 16 4", "aria-hidden": "true" },
    svg("path", { class: `line ${kind}`, d: "M0 2H16" }),
  );
}

// The least step of an axis that is a round number and not below `about`.
function niceStep(about, steps) {
  const step = steps.find((one) => one >= about);
  if (step) return step;
  const power = steps.at(-1) * 10 ** Math.floor(Math.log10(about / steps.at(-1)));
  return power * [1, 2, 5, 10].find((one) => one * power >= about);
}

// How much a counter grew in a second, at each time, over so many samples before it.
export function rates(ages, counter, over = 1) {
  return counter.map((number, index) => {
    const from = Math.max(0, index - over);
    const seconds = ages[from] - ages[index];
    return seconds > 0 ? Math.max(0, number - counter[from]) / seconds : null;
  });
}
