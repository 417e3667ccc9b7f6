// What is wrong now, worst first: said by the servers' states, by open alerts, by processes that do not run.

import { count, percent } from "./format.js";

const LITTLE = 0.01;         // of the queries: that many may stay unanswered without a word
const FEW = 0.1;             // per second
const STATES = { down: "bad", degraded: "warn", suspected: "warn" };
const TAKING = ["up", "suspected", "degraded"];

const named = (kind, subject) => subject.startsWith(`${kind} `) ? subject : `${kind} ${subject}`;

/** [{look: "bad" | "warn", text}] */
export function troubles(overview) {
  const found = [];
  const add = (look, text) => found.push({ look, text });
  const told = new Set();
  for (const service of overview.services) {
    if (!service.servers.some((server) => TAKING.includes(server.state))) {
      add("bad", `${service.name}: no server takes queries`);
    }
    for (const server of service.servers) {
      const subject = `${service.name}/${server.name}`;
      told.add(`server ${subject}`);
      if (STATES[server.state]) {
        add(STATES[server.state], `${subject} is ${server.state}${server.reason ? `: ${server.reason}` : ""}`);
      }
    }
    if (service.unanswered > FEW && service.unanswered > LITTLE * service.queries) {
      add("bad", `${service.name}: ${percent(Math.min(1, service.unanswered / (service.queries || 1)))} of the queries, ${
        count(service.unanswered)} per second, get no answer`);
    }
  }
  for (const alert of overview.alerts) {
    const name = named(alert.kind, alert.subject);
    if (told.has(name)) continue;
    add(alert.acked ? "warn" : "bad", `${name} is ${alert.flapping ? "flapping" : alert.state}${
      alert.reason ? `: ${alert.reason}` : ""}`);
    told.add(name);
  }
  for (const [name, process] of Object.entries(overview.processes ?? {})) {
    if (!process.running && !told.has(`process ${name}`)) add("warn", `process ${name} does not run`);
  }
  if (overview.ready === false) add("warn", "not all workers listen");
  return found.sort((one, other) => (one.look === "bad" ? 0 : 1) - (other.look === "bad" ? 0 : 1));
}

/** The state of all in one line: {look, text}. */
export function verdict(overview, found) {
  if (found.length === 1) return found[0];
  if (found.length) return { look: found[0].look, text: `${found.length} things need a look` };
  const servers = overview.services.flatMap((service) => service.servers);
  if (!servers.length) return { look: "good", text: "All is well" };
  const taking = servers.filter((server) => TAKING.includes(server.state)).length;
  const aside = servers.length - taking;
  const all = taking === 1 ? "The server answers" : taking === 2 ? "Both servers answer" : `All ${taking} servers answer`;
  return { look: "good", text: aside ? `${all}, ${aside} set aside` : all };
}
