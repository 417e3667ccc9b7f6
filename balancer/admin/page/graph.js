// The last hour as lines. Colours come from the style sheet, so they follow the theme.

import { el, put, set } from "./dom.js";
import { NONE, count, latency, moment } from "./format.js";

const HOUR = 3600;
const GAP = 4;               // steps without a point after which the line is broken
const HEIGHT = 168;
const FONT = "12px system-ui, sans-serif";
const probe = document.createElement("span");

/** A colour of the style sheet as the browser resolves it just now. */
function colour(name) {
  if (!probe.isConnected) {
    probe.hidden = true;
    document.body.append(probe);
  }
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** The points of one service, as columns by name; an hour at most. */
export class Hour {
  constructor(step, service = {}) {
    this.step = step;
    this.columns = {};
    for (const name of ["time", "queries", "unanswered", "p50", "p99"]) this.columns[name] = [...service[name] ?? []];
  }

  /** Add a point [time, queries, unanswered, p50, p99], unless it is there; whether it was new. */
  add(point) {
    const { time } = this.columns;
    if (!point || point[0] <= (time.at(-1) ?? 0)) return false;
    Object.values(this.columns).forEach((column, place) => column.push(point[place]));
    const old = time.findIndex((at) => at > point[0] - HOUR);
    for (const column of Object.values(this.columns)) column.splice(0, old);
    return true;
  }

  /** The columns by these names, behind that of the times; broken where nobody looked. */
  data(names) {
    const found = ["time", ...names].map(() => []);
    this.columns.time.forEach((at, place) => {
      const last = found[0].at(-1);
      if (last !== undefined && at - last > GAP * this.step) {
        found.forEach((column, number) => column.push(number ? null : last + this.step));
      }
      found.forEach((column, number) => column.push(number ? this.columns[names[number - 1]][place] : at));
    });
    return found;
  }
}

/** A figure: its title, the lines' names with what they are where the pointer is (else now), the lines. */
export class Graph {
  /** lines: [{name, label, colour, dash, fill, rug}]; format(value) gives its text; least: where the axis goes at least. */
  constructor({ title, lines, format, least }) {
    this.lines = lines;
    this.title = title;
    this.format = format;
    this.values = lines.map(() => el("b"));
    const legend = el("p", { class: "legend" }, ...lines.map((line, place) => el(
      "span", {}, el("i", { class: "sample", "data-colour": line.colour, "data-dash": line.dash ? "yes" : "no" }),
      el("span", {}, line.label), this.values[place])));
    this.when = el("span", { class: "when" });
    this.plot = el("div", { class: "plot", role: "img" });
    this.node = el("figure", { class: "graph" }, el("figcaption", {}, el("span", { class: "title" }, title), legend,
      this.when), this.plot);
    this.now = lines.map(() => null);
    this.least = least;
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(this.plot);
  }

  options(width) {
    const axis = (more) => ({
      stroke: () => colour("soft"), font: FONT, ticks: { show: false },
      grid: { stroke: () => colour("line"), width: 1 }, ...more,
    });
    return {
      width, height: HEIGHT, legend: { show: false }, padding: [8, 8, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: {
        x: { time: true, range: () => [this.end - HOUR, this.end] },
        y: { range: (_, low, high) => [0, Math.max(this.least, (high ?? 0) * 1.15)] },
      },
      axes: [
        axis({ size: 26, values: (_, splits) => splits.map((at) => moment(at, at).slice(0, 5)), grid: { show: false } }),
        axis({ size: 62, values: (_, splits) => splits.map((value) => this.format(value)), splits: axisSplits }),
      ],
      series: [{}, ...this.lines.map((line) => ({
        stroke: () => colour(line.colour), width: line.dash ? 1.5 : 2, dash: line.dash, spanGaps: false,
        fill: line.fill ? () => colour(line.fill) : undefined, points: { show: false },
      }))],
      hooks: { setCursor: [(plot) => this.point(plot.cursor.idx)], draw: [(plot) => this.rug(plot)] },
    };
  }

  /** A little above nothing is not seen on the scale of all: where such a line is above zero, the ground is marked. */
  rug(plot) {
    this.lines.forEach((line, number) => {
      if (!line.rug) return;
      const size = 6 * devicePixelRatio, ground = plot.bbox.top + plot.bbox.height;
      plot.ctx.fillStyle = colour(line.colour);
      plot.data[number + 1].forEach((value, place) => {
        if (!value) return;
        const at = plot.valToPos(plot.data[0][place], "x", true);
        plot.ctx.fillRect(at - devicePixelRatio, ground - size, 2 * devicePixelRatio, size);
      });
    });
  }

  fit() {
    const width = this.plot.clientWidth;
    if (!width || !this.data) return;
    if (this.chart) this.chart.setSize({ width, height: HEIGHT });
    else this.chart = new uPlot(this.options(width), this.data, this.plot);
  }

  /** Draw the hour until `end` (seconds since 1970). */
  show(hour, end) {
    this.end = end;
    this.data = hour.data(this.lines.map((line) => line.name));
    if (this.chart) this.chart.setData(this.data);
    else this.fit();
    this.describe();
  }

  /** What the lines are now: values in their order. */
  update(now) {
    this.now = now;
    if (this.chart?.cursor.idx === null || this.chart?.cursor.idx === undefined) this.point(null);
  }

  point(place) {
    const there = place !== null && place !== undefined && this.data && this.data[0].length > place;
    this.lines.forEach((_, number) => put(this.values[number],
      this.format(there ? this.data[number + 1][place] : this.now[number])));
    put(this.when, there ? `at ${moment(this.data[0][place], this.end)}` : "now");
  }

  describe() {
    const words = this.lines.map((line, number) => {
      const values = this.data[number + 1].filter((value) => value !== null);
      return values.length
        ? `${line.label} ${this.format(Math.min(...values))} to ${this.format(Math.max(...values))}`
        : `${line.label} ${NONE}`;
    });
    set(this.plot, "aria-label", `${this.title} in the last hour: ${words.join("; ")}`);
  }

  redraw() {
    this.chart?.redraw(false);
  }

  close() {
    this.watch.disconnect();
    this.chart?.destroy();
  }
}

/** Three or four round numbers. */
function axisSplits(_plot, _axis, low, high) {
  const rough = (high - low) / 3, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let at = 0; at <= high; at += step) found.push(at);
  return found;
}

export const queriesGraph = () => new Graph({
  title: "Queries per second", format: (value) => value === null ? NONE : count(value), least: 1, lines: [
    { name: "queries", label: "asked", colour: "accent", fill: "wash" },
    { name: "unanswered", label: "unanswered", colour: "bad", dash: [4, 3], rug: true },
  ],
});

export const latencyGraph = () => new Graph({
  title: "Time to answer", format: latency, least: 0.0005, lines: [
    { name: "p50", label: "half within", colour: "accent" },
    { name: "p99", label: "99 % within", colour: "second", dash: [4, 3] },
  ],
});
