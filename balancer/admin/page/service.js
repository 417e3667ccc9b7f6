// One service: its numbers, its hour, who takes what share, and its servers.

import { each, el, look, mark, put, set } from "./dom.js";
import { NONE, age, count, latency, percent } from "./format.js";
import { Hour, latencyGraph, queriesGraph } from "./graph.js";

const COLUMNS = ["State", "Server", "Share", "Queries/s", "In flight", "Half within", "99 % within", "Answers",
  "Re-sent", "Probes"];
const MOST_PIECES = 24;      // of the picture of the shares

export class Service {
  constructor(name) {
    this.numbers = el("dl", { class: "numbers" });
    this.about = el("p", { class: "about" });
    this.graphs = [queriesGraph(), latencyGraph()];
    this.shares = el("div", { class: "shares", role: "img" });
    this.body = el("tbody", { role: "rowgroup" });
    this.dropped = el("p", { class: "dropped" });
    const head = el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...COLUMNS.map((column) => el(
      "th", { scope: "col", role: "columnheader" }, column))));
    const title = el("h2", { id: `service-${name}` }, name);
    this.node = el("section", { class: "card service", "aria-labelledby": title.id },
      el("div", { class: "heading" }, title, this.about), this.numbers,
      el("div", { class: "graphs" }, ...this.graphs.map((graph) => graph.node)),
      this.shares,
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Servers of ${name}` },
        el("table", { role: "table", "aria-label": `Servers of ${name}` }, head, this.body)),
      this.dropped);
    this.hour = new Hour(5);
  }

  /** The points of the last hour, as the server keeps them. */
  fill(step, points, end) {
    this.hour = new Hour(step, points);
    for (const graph of this.graphs) graph.show(this.hour, end);
  }

  update(service, overview) {
    put(this.about, [service.listen.join(", ") || "no address", service.scheduler,
      service.tcp_open ? `${count(service.tcp_open)} TCP connections` : ""].filter(Boolean).join(" · "));
    const servers = service.servers;
    const resends = servers.reduce((sum, server) => sum + server.resends, 0);
    this.show([
      ["Queries per second", count(service.queries), ""],
      ["Unanswered per second", count(service.unanswered), service.unanswered >= 0.05 ? "bad" : ""],
      ["Half answered within", latency(service.p50), ""],
      ["99 % answered within", latency(service.p99), ""],
      ["In flight", count(service.inflight), ""],
      ["Re-sent per second", count(resends), ""],
    ]);
    if (this.hour.add(service.point)) for (const graph of this.graphs) graph.show(this.hour, overview.time);
    this.graphs[0].update([service.queries, service.unanswered]);
    this.graphs[1].update([service.p50, service.p99]);
    this.picture(servers);
    each(this.body, servers, (server) => `${server.name} ${server.address}`, () => new Row(), overview.time);
    const dropped = Object.entries({ timeouts: service.timeouts, ...service.dropped }).filter(([, rate]) => rate > 0);
    put(this.dropped, dropped.length ? `Without an answer in the last minute, per second: ${
      dropped.map(([why, rate]) => `${why.replaceAll("_", " ")} ${count(rate)}`).join(", ")}` : "");
  }

  show(rows) {
    each(this.numbers, rows, ([name]) => name, ([name]) => {
      const value = el("dd");
      return {
        node: el("div", {}, el("dt", {}, name), value),
        update([, text, tone]) {
          put(value, text);
          set(value, "data-tone", tone || null);
        },
      };
    });
  }

  /** The shares of the last minute side by side. */
  picture(servers) {
    const taking = servers.filter((server) => server.share > 0);
    this.shares.hidden = !taking.length || servers.length > MOST_PIECES || servers.length < 2;
    if (this.shares.hidden) return;
    set(this.shares, "aria-label", `Shares of the last minute: ${
      taking.map((server) => `${server.name} ${percent(server.share)}`).join(", ")}`);
    each(this.shares, taking, (server) => `${server.name} ${server.address}`, (server) => {
      const part = el("b"), node = el("span", { class: "piece" }, el("span", {}, server.name), part);
      return {
        node,
        update(now) {
          node.style.flexGrow = now.share.toFixed(3);
          put(part, percent(now.share));
          set(node, "data-look", look(now.state));
        },
      };
    });
  }

  redraw() {
    for (const graph of this.graphs) graph.redraw();
  }

  close() {
    for (const graph of this.graphs) graph.close();
  }
}

/** One server. */
class Row {
  constructor() {
    this.state = mark();
    this.since = el("span", { class: "since" });
    this.name = el("b", { class: "name" });
    this.address = el("span", { class: "address" });
    this.reason = el("span", { class: "reason" });
    this.share = el("b");
    this.bar = el("span", { class: "fill" });
    this.fair = el("span", { class: "fair" });
    this.track = el("span", { class: "track", "aria-hidden": "true" }, this.bar, this.fair);
    this.weight = el("span", { class: "weight" });
    this.cells = Object.fromEntries(["queries", "inflight", "p50", "p99"].map((name) => [name, el("span")]));
    this.answers = el("span", { class: "answers" });
    this.resent = el("span");
    this.lost = el("span", { class: "lost" });
    this.probes = el("span", { class: "probes" });
    this.unprobed = el("span", { class: "unprobed" }, "not probed");
    const cells = [
      [this.state.node, this.since], [this.name, this.address, this.reason],
      [this.share, this.track, this.weight], [this.cells.queries], [this.cells.inflight], [this.cells.p50],
      [this.cells.p99], [this.answers], [this.resent, this.lost], [this.probes, this.unprobed],
    ].map((children, place) => el(place === 1 ? "th" : "td", {
      "data-label": COLUMNS[place], class: place === 2 || place > 2 && place < 7 || place === 8 ? "number" : undefined,
      ...(place === 1 ? { scope: "row", role: "rowheader" } : { role: "cell" }),
    }, ...children));
    this.node = el("tr", { role: "row" }, ...cells);
  }

  update(server, time) {
    put(this.since, `for ${age(time - server.since)}`);
    this.state.update(server.state);
    set(this.node, "data-look", look(server.state));
    put(this.name, server.name);
    put(this.address, server.address);
    put(this.reason, server.reason);
    put(this.share, percent(server.share));
    this.bar.style.inlineSize = `${(100 * server.share).toFixed(1)}%`;
    this.fair.style.insetInlineStart = `${(100 * server.fair).toFixed(1)}%`;
    this.fair.hidden = !server.fair;
    put(this.weight, `weight ${server.weight}${server.fair ? `, due ${percent(server.fair)}` : ""}`);
    put(this.cells.queries, count(server.queries));
    put(this.cells.inflight, count(server.inflight));
    put(this.cells.p50, latency(server.p50));
    put(this.cells.p99, latency(server.p99));
    const total = Object.values(server.answers).reduce((sum, rate) => sum + rate, 0);
    const answers = Object.entries(server.answers).sort(([, one], [, other]) => other - one);
    each(this.answers, answers.length ? answers : [[NONE, null]], ([name]) => name, ([name]) => {
      const part = el("b");
      return {
        node: el("span", {}, el("span", {}, name), part),
        update: ([, rate]) => put(part, rate === null ? "" : percent(rate / total)),
      };
    });
    put(this.resent, `${count(server.resends)} /s`);
    const lost = [["timed out", server.timeouts], ["refused", server.refusals]].filter(([, rate]) => rate > 0);
    put(this.lost, lost.map(([what, rate]) => `${what} ${count(rate)} /s`).join(", "));
    each(this.probes, Object.entries(server.health).filter(([, found]) => found.probed), ([proto]) => proto,
      ([proto]) => {
        const state = mark();
        return {
          node: el("span", { class: "probe" }, el("b", {}, proto.toUpperCase()), state.node),
          update: ([, found]) => state.update(found.verdict,
            found.verdict === "up" ? latency(found.latency) : found.verdict),
        };
      });
    this.unprobed.hidden = this.probes.children.length > 0;
  }
}
