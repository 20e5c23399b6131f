// Elements made of text and nodes alone: nothing here reads markup, so that no name of a patient
// can become any.

const MOST_TOASTS = 4;
const SVG = "http://www.w3.org/2000/svg";

/** An element. Attributes; `on…` are listeners; `class`, `dataset` and booleans as one expects. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "value" && "value" in element && element.tagName !== "LI") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what is in an element. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Change a text only where it differs, so that nothing flickers and nobody loses a selection. */
export function say(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function attribute(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value);
  }
}

/** Keep the children of an element those of a list: by key, in order, moved only where needed. */
export function keyed(parent, items, keyOf, make) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = known.get(key);
    if (child) known.delete(key);
    else {
      child = make(item);
      child.dataset.key = key;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    child.update?.(item);
  }
  for (const child of known.values()) child.remove();
}

/** A table that reads as a list of cards where there is no room for columns. */
export function table(caption, columns, rows) {
  return h("div", { class: "scroll" }, h("table", { role: "table" },
    h("caption", { class: "hidden" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((column) => heading(column)))),
    h("tbody", { role: "rowgroup" }, rows)));
}

function heading({ name, key, kind, sort, hidden }) {
  const inside = sort
    ? h("button", { type: "button", class: "sort", dataset: { column: key }, onclick: sort.choose }, name,
      h("span", { "aria-hidden": "true", class: "sort-mark" }, sort.way === "ASC" ? "▲" : sort.way === "DESC" ? "▼" : "↕"))
    : hidden ? h("span", { class: "hidden" }, name) : name;
  const way = { ASC: "ascending", DESC: "descending" }[sort?.way];
  return h("th", { role: "columnheader", scope: "col", class: kind, "aria-sort": way }, inside);
}

export function row(...cells) {
  return h("tr", { role: "row" }, cells);
}

export function cell(label, attributes, ...children) {
  return h("td", { role: "cell", "data-label": label, ...attributes }, children);
}

/** A short message that goes by itself; one that matters stays until it is closed. */
export function toast(content, kind = "good") {
  const box = h("div", { class: `toast ${kind}` }, h("div", {}, content),
    h("button", { type: "button", class: "plain", "aria-label": "Close this message", onclick: () => box.remove() }, "✕"));
  const all = document.getElementById("toasts");
  all.append(box);
  while (all.children.length > MOST_TOASTS) all.firstChild.remove();
  if (kind === "good") setTimeout(() => box.remove(), 8000);
}

/** A modal dialog; `make(close)` gives what is in it. Resolves when it is closed. */
export function dialog(title, make) {
  return new Promise((resolve) => {
    const box = h("dialog", { "aria-labelledby": "dialog-title" });
    const close = () => box.close();
    box.append(h("div", { class: "dialog-head" }, h("h2", { id: "dialog-title" }, title),
      h("button", { type: "button", class: "plain", "aria-label": "Close", onclick: close }, "✕")));
    box.append(...[make(close)].flat());
    box.addEventListener("close", () => {
      box.remove();
      resolve();
    });
    document.body.append(box);
    box.showModal();
  });
}
