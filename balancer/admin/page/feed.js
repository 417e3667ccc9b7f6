// Where the news come from: a stream of server-sent events; while that brings nothing, the same by asking again and again.

const SILENT = 4000;         // ms without an overview after which we ask
const EVERY = 2000;          // ms between two questions
const REOPEN = 10000;        // ms after which a stream that was refused is tried again
const START = 1000;          // ms that the stream has to begin
const LOST = 6000;           // ms without news of any kind after which what is shown is old
const KEPT = 50;             // events

export class Feed {
  /** `onOverview(overview)`, `onEvents(events, newest first)`, `onState("live" | "polling" | "lost", seconds)`. */
  constructor({ onOverview, onEvents, onState }) {
    this.onOverview = onOverview;
    this.onEvents = onEvents;
    this.onState = onState;
    this.events = new Map();
    this.streamed = this.asked = -Infinity;
    this.begun = this.heard = performance.now();
    this.asking = false;
    this.open();
    setInterval(() => this.look(), 1000);
  }

  open() {
    this.source = new EventSource(`/api/v1/events?overview&last=${KEPT}`);
    this.source.onmessage = (message) => this.take([JSON.parse(message.data)]);
    this.source.addEventListener("overview", (message) => {
      this.streamed = performance.now();
      this.show(JSON.parse(message.data));
    });
    this.source.onerror = () => {
      this.streamed = -Infinity;
      if (this.source.readyState === EventSource.CLOSED) setTimeout(() => this.open(), REOPEN);
      this.look();
    };
  }

  look() {
    const now = performance.now();
    if (now - this.streamed > SILENT && now - this.asked >= EVERY && now - this.begun > START) this.ask();
    this.tell();
  }

  async ask() {
    if (this.asking) return;
    this.asking = true;
    this.asked = performance.now();
    try {
      const get = (path, headers = {}) => fetch(path, {
        headers: { Accept: "application/json", ...headers }, cache: "no-store", signal: AbortSignal.timeout(SILENT),
      }).then((answer) => answer.ok ? answer.json() : Promise.reject(new Error(`${answer.status}`)));
      const newest = [...this.events.keys()].sort().at(-1);
      const [overview, events] = await Promise.all([
        get("/api/v1/overview"),
        get(`/api/v1/events?last=${KEPT}`, newest ? { "Last-Event-ID": newest } : {}),
      ]);
      this.take(events);
      this.show(overview);
    } catch {
      // Told by `tell` when it goes on.
    }
    this.asking = false;
  }

  show(overview) {
    this.heard = performance.now();
    this.onOverview(overview);
    this.tell();
  }

  take(events) {
    for (const event of events) this.events.set(event.id, event);
    const newest = [...this.events.keys()].sort().reverse();
    for (const id of newest.slice(KEPT)) this.events.delete(id);
    clearTimeout(this.telling);             // at the beginning they come one by one
    this.telling = setTimeout(() => this.onEvents(newest.slice(0, KEPT).map((id) => this.events.get(id))));
  }

  tell() {
    const now = performance.now(), silent = now - this.heard;
    this.onState(silent > LOST ? "lost" : now - this.streamed <= SILENT ? "live" : "polling", silent / 1000);
  }
}
