// What else there is to know of this host: one card each. The only place of ns7 that knows components by name; one that
// has no card here is shown with the plain values of its status.

import { each, el, mark, pairs, put, set } from "./dom.js";
import { NONE, age, count, moment, plural } from "./format.js";

const FRESH = 3.5;           // seconds that another director's status holds
const MOST_ZONES = 12;
const PLAIN = ["string", "number", "boolean"];

/** A card: a title, pairs, and what else `more` is. */
class Card {
  constructor(title, ...more) {
    this.list = el("dl", { class: "facts" });
    const heading = el("h2", { id: `panel-${title.toLowerCase().replace(/[^a-z]+/g, "-")}` }, title);
    this.node = el("section", { class: "card", "aria-labelledby": heading.id }, heading, this.list, ...more);
  }

  show(rows) {
    pairs(this.list, rows);
  }
}

/** Who has the floating addresses: {holder, here, addresses}; null without failover. */
export function holder(overview) {
  const failover = overview.components.failover;
  if (!failover) return null;
  const other = Object.entries(failover.directors ?? {})
    .find(([, director]) => director.active && director.age <= FRESH)?.[0];
  return {
    addresses: failover.addresses ?? [],
    here: failover.active,
    name: failover.active ? overview.node : other ?? (failover.peer && overview.standing === "standby" ? failover.peer : ""),
    since: failover.active ? failover.since : null,
  };
}

class Failover extends Card {
  constructor() {
    super("Virtual address");
    this.state = mark();
    this.body = el("ul", { class: "rows" });
    this.node.append(this.body);
  }

  update(failover, overview) {
    const held = holder(overview);
    this.state.update(failover.active ? "good" : overview.standing === "standby" ? "other" : "bad", failover.state);
    this.show([
      ["Addresses", held.addresses.join(", ")],
      ["Held by", held.name ? `${held.name}${held.here ? " (this host)" : ""}` : "nobody that is heard"],
      ["State here", this.state.node],
      ["For", age(overview.time - failover.since)],
      ["Priority", `${failover.priority}${failover.wish === "auto" ? "" : `, told: ${failover.wish}`}`],
      ["Virtual router", `${failover.virtual_router_id} on ${failover.interface}`],
      ["Cannot serve", failover.why ?? ""],
      ["Last advert of", failover.peer
        ? `${failover.peer}, priority ${failover.peer_priority}, ${age(failover.peer_age ?? 0)} ago` : ""],
    ]);
    each(this.body, Object.entries(failover.directors ?? {}), ([node]) => node, ([node]) => {
      const state = mark(), more = el("span");
      return {
        node: el("li", {}, el("b", {}, node), state.node, more),
        update([, told], now) {
          const heard = told.age <= FRESH;
          state.update(!heard ? "gone" : told.fit === false ? "warn" : "good", heard ? told.state ?? "heard" : "not heard");
          put(more, [told.version, told.fingerprint && told.fingerprint !== now.fingerprint ? "another configuration" : "",
            heard ? "" : `for ${age(told.age)}`, told.why].filter(Boolean).join(", "));
        },
      };
    }, overview);
  }
}

/** A zone's serial on one server. */
function write(cell, found) {
  set(cell, "data-look", found?.behind ? "warn" : null);
  each(cell, !found ? [NONE] : found.behind
    ? [found.serial, `${found.behind.state} for ${age(found.behind.behind)}`] : [found.serial],
  (_, place) => place, () => {
    const node = el("span");
    return { node, update: (text) => put(node, text) };
  });
}

class Health extends Card {
  constructor() {
    const head = el("tr"), body = el("tbody");
    const table = el("table", { class: "serials" }, el("caption", {}, "Serials"), el("thead", {}, head), body);
    const scroll = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Serials of the zones" }, table);
    super("Zones", scroll);
    Object.assign(this, { head, body, scroll });
    this.master = mark();
  }

  update(health, overview) {
    const late = (health.behind ?? []).filter((copy) => copy.state !== "current");
    const probes = Object.values(health.probes ?? {}).reduce((sum, number) => sum + number, 0);
    if (health.master?.name) this.master.update(health.master.verdict ?? "unknown", `${health.master.name} ${
      health.master.verdict ?? "unknown"}`);
    const most = Math.max(0, ...late.map((copy) => copy.behind));
    this.show([
      ["Probed", `${plural(health.zones ?? 0, "zone")} on ${plural(health.targets ?? 0, "server")}`],
      ["Master", health.master?.name ? this.master.node : ""],
      ["Behind the master", late.length ? `${late.length} ${late.length === 1 ? "copy" : "copies"}, up to ${age(most)}` : "none"],
      ["Probes", `${count(probes)} (${count(health.changes ?? 0)} changed a verdict)`],
    ]);
    this.serials(health.serials ?? [], late);
  }

  serials(rows, late) {
    const servers = [...new Set(rows.map((row) => row.server))];
    const lag = new Map(late.map((copy) => [`${copy.zone} ${copy.server}`, copy]));
    const zones = new Map();
    for (const row of rows) {
      if (!zones.has(row.zone)) zones.set(row.zone, { zone: row.zone, late: false, by: new Map() });
      const zone = zones.get(row.zone), behind = lag.get(`${row.zone} ${row.server}`);
      zone.by.set(row.server, { serial: row.serial, behind });
      zone.late ||= Boolean(behind);
    }
    const shown = [...zones.values()].sort((one, other) => other.late - one.late).slice(0, MOST_ZONES);
    this.scroll.hidden = !shown.length;
    const heading = (server) => ({ node: el("th", { scope: "col" }, server) });
    each(this.head, ["Zone", ...servers], (name) => name, heading);
    each(this.body, shown, (zone) => zone.zone, (zone) => {
      const node = el("tr");
      return {
        node,
        update(now, names) {
          each(node, ["", ...names], (server) => server, (server) => {
            const cell = server ? el("td") : el("th", { scope: "row" }, zone.zone);
            return { node: cell, update: (_, by) => server && write(cell, by.get(server)) };
          }, now.by);
        },
      };
    }, servers);
  }
}

class Sync extends Card {
  constructor() {
    super("Synchronisation");
    this.state = mark();
    this.body = el("ul", { class: "rows" });
    this.node.append(this.body);
  }

  update(sync, overview) {
    const tone = { current: "good", new: "other", retrying: "warn", failed: "bad" }[sync.state] ?? "other";
    this.state.update(tone, sync.state);
    this.show([
      ["This host", sync.role === "publish" ? "publishes" : "pulls"],
      ["State", this.state.node],
      ["Why", sync.reason ?? ""],
      ["Generation", sync.generation ? `${sync.generation}, ${plural(sync.zones, "zone")}` : NONE],
      ["Made", sync.time ? `${age(overview.time - sync.time)} ago` : ""],
      ["Last success", sync.last_success ? `${age(overview.time - sync.last_success)} ago` : "never"],
    ]);
    each(this.body, sync.pullers ?? [], (puller) => puller.puller, (puller) => {
      const state = mark(), more = el("span");
      return {
        node: el("li", {}, el("b", {}, puller.puller), state.node, more),
        update(now) {
          state.update(now.behind ? "warn" : "good", now.behind ? `behind for ${age(now.behind)}` : now.state);
          put(more, [`generation ${now.generation}`, now.reason].filter(Boolean).join(", "));
        },
      };
    });
  }
}

class Plain extends Card {
  update(status) {
    this.show(Object.entries(status).filter(([, value]) => PLAIN.includes(typeof value))
      .map(([name, value]) => [name.replaceAll("_", " "), String(value)]));
  }
}

class Changes extends Card {
  constructor() {
    const body = el("ul", { class: "rows" });
    super("Live changes", body);
    this.body = body;
  }

  update(_, overview) {
    each(this.body, overview.live, (one) => `${one.service} ${one.server} ${one.what}`, () => {
      const what = el("b"), who = el("span"), idle = el("span", { class: "reason" });
      return {
        node: el("li", {}, what, who, idle),
        update(one, now) {
          const value = one.what !== "server" ? `${one.what} ${one.value}` : one.value === null ? "removed"
            : `added at ${one.value.address}`;
          put(what, `${one.service}/${one.server}: ${value}`);
          put(who, `by ${one.user} on ${one.node}, ${age(now - one.time)} ago${
            one.saved ? ", saved" : ""}`);
          put(idle, one.idle ? `does not count: ${one.idle}` : "");
        },
      };
    }, overview.time);
  }
}

class Host extends Card {
  constructor() {
    super("This host");
    this.state = mark();
  }

  update(_, overview) {
    const workers = overview.workers ?? [], processes = Object.entries(overview.processes ?? {});
    const drops = Object.values(overview.socket_drops ?? {}).flatMap((one) => Object.values(one))
      .reduce((sum, number) => sum + number, 0);
    const listening = workers.filter((worker) => worker.listening).length;
    const down = processes.filter(([, process]) => !process.running).map(([name]) => name);
    this.state.update(down.length || listening < workers.length ? "warn" : "good",
      `${listening} of ${plural(workers.length, "worker")} listening`);
    this.show([
      ["Version", overview.version],
      ["Up for", age(overview.uptime)],
      ["Configuration", `${overview.configured ? `read ${age(overview.time - overview.configured)} ago, ` : ""}${overview.fingerprint}`],
      ["Roles", (overview.roles ?? []).join(", ")],
      ["Workers", workers.length ? this.state.node : ""],
      ["Workers replaced", overview.worker_restarts ? count(overview.worker_restarts) : ""],
      ["Processes", processes.map(([name, process]) => `${name}${process.running ? "" : " (not running)"}${
        process.restarts ? `, restarted ${process.restarts} times` : ""}`).join("; ")],
      ["Dropped by the kernel", drops ? `${count(drops)} datagrams at full buffers` : ""],
      ["Finishing", overview.retiring ? "workers from before a change answer what they have in flight" : ""],
    ]);
  }
}

const CARDS = { failover: Failover, health: Health, sync: Sync };

/** Draw all cards that there is something for. */
export function panels(parent, overview) {
  const wanted = Object.entries(overview.components).sort(([one], [other]) => one < other ? -1 : 1)
    .map(([name, status]) => ({ name, status, make: () => CARDS[name] ? new CARDS[name]() : new Plain(name) }));
  if (overview.live?.length) wanted.push({ name: "live changes", make: () => new Changes() });
  wanted.push({ name: "this host", make: () => new Host() });
  each(parent, wanted, (one) => one.name, (one) => {
    const card = one.make();
    return { node: card.node, update: (now, all) => card.update(now.status, all) };
  }, overview);
}

/** The newest events, newest first. */
export function events(parent, rows, now) {
  each(parent, rows, (event) => event.id, (event) => {
    const state = mark(), at = new Date(event.time * 1000);
    state.update(event.tone, event.after);
    const time = el("time", { datetime: Number.isNaN(at.getTime()) ? undefined : at.toISOString() });
    return {
      node: el("li", {}, time, el("b", {}, event.subject.startsWith(event.kind) ? event.subject
        : `${event.kind} ${event.subject}`), state.node, el("span", { class: "was" }, event.before
        ? `was ${event.before}` : ""), el("span", { class: "why" }, event.reason)),
      update: (_, today) => put(time, moment(event.time, today)),
    };
  }, now);
}
