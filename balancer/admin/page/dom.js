// The little that is needed to build the page: text is always text, and what has not changed is not touched.

import { clean } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

// A shape for each state, so that no colour needs to be seen. 16 by 16, filled even-odd.
const SHAPES = {
  good: "M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2Z",
  half: "M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2Zm0 1.8v8.4a4.2 4.2 0 0 0 0-8.4Z",
  warn: "M8 1.6 15.2 14.2H.8ZM7.1 6v4.4h1.8V6Zm0 5.4v1.7h1.8v-1.7Z",
  bad: "M3.4 1.8 8 6.4l4.6-4.6 1.6 1.6L9.6 8l4.6 4.6-1.6 1.6L8 9.6l-4.6 4.6-1.6-1.6L6.4 8 1.8 3.4Z",
  idle: "M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2Zm0 2a4 4 0 1 0 0 8 4 4 0 0 0 0-8Z",
  gone: "M2 7h12v2H2Z",
};

// What the words of ns7 look like; a word that is not known is neither good nor bad.
const LOOKS = {
  up: "good", suspected: "half", degraded: "warn", down: "bad", drained: "idle", removed: "gone",
  good: "good", bad: "bad", quiet: "half", other: "idle", warn: "warn", spared: "warn", unknown: "idle",
};

export const look = (word) => LOOKS[word] ?? "idle";

/** An element. Children are elements, or text. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.map((child) => child instanceof Node ? child : clean(child)));
  return node;
}

/** Make this the text of the node. */
export function put(node, text) {
  const line = clean(text);
  if (node.textContent !== line) node.textContent = line;
}

/** Make this the value of the attribute; null takes it away. */
export function set(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** A state: its shape and, beside it, its word. */
export function mark() {
  const shape = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  for (const [name, value] of [["viewBox", "0 0 16 16"], ["class", "shape"], ["aria-hidden", "true"]]) {
    shape.setAttribute(name, value);
  }
  path.setAttribute("fill-rule", "evenodd");
  shape.append(path);
  const word = el("span", { class: "word" });
  const node = el("span", { class: "mark" }, shape, word);
  return {
    node,
    update(state, text = state) {
      const kind = look(state);
      set(node, "data-look", kind);
      set(path, "d", SHAPES[kind]);
      put(word, text);
    },
  };
}

const kept = new WeakMap();

/**
 * Make the children of `parent` those of `items`, in their order. make(item) gives {node, update(item, context), close()}
 * for a new one; an update may only know what it is given, for it outlives this call.
 */
export function each(parent, items, key, make, context) {
  const known = kept.get(parent) ?? new Map();
  kept.set(parent, known);
  const gone = new Set(known.keys());
  let place = parent.firstElementChild;
  for (const [number, item] of items.entries()) {
    const id = key(item, number);
    if (!known.has(id)) known.set(id, make(item));
    gone.delete(id);
    const one = known.get(id);
    one.update?.(item, context);
    if (place === one.node) place = place.nextElementSibling;
    else parent.insertBefore(one.node, place);
  }
  for (const id of gone) {
    known.get(id).close?.();
    known.get(id).node.remove();
    known.delete(id);
  }
}

/** Pairs of a name and a value; values are text, or elements. */
export function pairs(parent, rows) {
  each(parent, rows.filter(([, value]) => value !== "" && value !== null && value !== undefined), ([name]) => name,
    ([name]) => {
      const value = el("dd");
      return {
        node: el("div", {}, el("dt", {}, name), value),
        update([, now]) {
          if (now instanceof Node) {
            if (value.firstChild !== now) value.replaceChildren(now);
          } else put(value, now);
        },
      };
    });
}
