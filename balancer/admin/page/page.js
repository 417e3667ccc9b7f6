// The page: news come in, parts are told, the reader is told when there are no news.

import { each, el, mark, put, set } from "./dom.js";
import { Feed } from "./feed.js";
import { age, count, plural } from "./format.js";
import { events, holder, panels } from "./panels.js";
import { Service } from "./service.js";
import { troubles, verdict } from "./troubles.js";

const THEMES = ["system", "light", "dark"];
const MOST_TROUBLES = 8;
const GAP = 15;              // seconds without an overview after which the hour is fetched anew

const $ = (id) => document.getElementById(id);
const services = new Map();
let overview = null, hour = null, newest = [], version = null;

// Theme

function theme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  put($("theme"), `Theme: ${name}`);
  for (const service of services.values()) service.redraw();
}

function stored(name) {
  try {
    if (name) localStorage.setItem("theme", name);
    return localStorage.getItem("theme");
  } catch {
    return name;             // a browser that keeps nothing
  }
}

let chosen = THEMES.includes(stored()) ? stored() : "system";
$("theme").addEventListener("click", () => {
  chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
  stored(chosen);
  theme(chosen);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(chosen));
theme(chosen);

// Parts

const head = mark(), feedMark = mark();
$("feed").append(feedMark.node);

async function fetchHour() {
  try {
    const answer = await fetch("/api/v1/history", { cache: "no-store" });
    if (!answer.ok) return;
    hour = await answer.json();
    for (const [name, service] of services) fill(name, service);
  } catch {
    // The graphs begin now instead of an hour ago.
  }
}

function fill(name, service) {
  const points = hour?.services.find((one) => one.name === name);
  service.fill(hour?.step ?? 5, points, overview?.time ?? Date.now() / 1000);
}

function showVerdict() {
  const found = troubles(overview), one = verdict(overview, found);
  head.update(one.look, one.text);
  if (!head.node.isConnected) $("verdict").replaceChildren(head.node);
  const listed = found.length > 1 ? found.slice(0, MOST_TROUBLES) : [];
  if (found.length > MOST_TROUBLES) listed.push({ look: "other", text: `and ${found.length - MOST_TROUBLES} more` });
  each($("troubles"), listed, (trouble) => trouble.text, () => {
    const state = mark();
    return { node: el("li", {}, state.node), update: (trouble) => state.update(trouble.look, trouble.text) };
  });
  const queries = overview.services.reduce((sum, service) => sum + service.queries, 0);
  const servers = overview.services.reduce((sum, service) => sum + service.servers.length, 0);
  put($("summary"), servers ? `${count(queries)} queries per second to ${plural(servers, "server")}` : "");
  const name = overview.node || "ns7";
  document.title = `${{ good: "●", warn: "▲", bad: "✕" }[one.look] ?? "○"} ${name}: ${one.text.slice(0, 80)}`;
}

function showHolder() {
  const held = holder(overview);
  $("holder").hidden = !held;
  if (!held) return;
  each($("holder"), [
    ["Address", held.addresses.join(", ")],
    ["Held by", held.name ? `${held.name}${held.here ? ", this host" : ""}` : "nobody that is heard"],
    ["This host is", held.since ? `${overview.standing}, for ${age(overview.time - held.since)}` : overview.standing],
  ], ([label]) => label, ([label]) => {
    const value = el("dd");
    return { node: el("div", {}, el("dt", {}, label), value), update: ([, text]) => put(value, text) };
  });
}

function onOverview(now) {
  if (version !== null && version !== now.version) {
    location.reload();       // the page belongs to the program that serves it
    return;
  }
  const missed = overview !== null && now.time - overview.time > GAP;
  version = now.version;
  overview = now;
  put($("node"), now.node);
  each($("services"), now.services, (service) => service.name, (service) => {
    const made = new Service(service.name);
    services.set(service.name, made);
    fill(service.name, made);
    return {
      node: made.node,
      update: (one) => made.update(one, overview),
      close() {
        made.close();
        services.delete(service.name);
      },
    };
  });
  showVerdict();
  showHolder();
  panels($("panels"), now);
  events($("events"), newest, now.time);
  if (missed) fetchHour();
}

function onState(state, seconds) {
  const words = { live: "Live", polling: "Polling", lost: `No news for ${age(seconds)}` };
  feedMark.update({ live: "good", polling: "quiet", lost: "bad" }[state], words[state]);
  set(document.body, "data-feed", state);
  if (state === "lost") {
    head.update("bad", "No news from ns7: what you see is old");
    document.title = `✕ no news from ${overview?.node ?? "ns7"}`;
    if (!head.node.isConnected) $("verdict").replaceChildren(head.node);
  }
}

fetchHour();
new Feed({
  onOverview,
  onState,
  onEvents(rows) {
    newest = rows;
    events($("events"), rows, overview?.time ?? Date.now() / 1000);
  },
});
