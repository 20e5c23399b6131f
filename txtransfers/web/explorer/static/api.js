// The daemon's REST API. Paths are relative to the page, so that all works behind a proxy too.

const ROOT = new URL("../../", location.href.split("#")[0]);

export const HAS_ARCHIVE = document.documentElement.dataset.archive === "yes";
export const NAME = document.documentElement.dataset.name;
export const VERSION = document.documentElement.dataset.version;

export const url = (path) => new URL(path.replace(/^\//, ""), ROOT).href;

/** An answer other than 200, as a sentence for people. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(method, path, value, signal) {
  let response;
  try {
    response = await fetch(url(path), {
      method,
      signal,
      headers: value === undefined ? {} : { "Content-Type": "application/json" },
      body: value === undefined ? undefined : JSON.stringify(value),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, `${NAME} does not answer. Is it running, and is the network there?`);
  }
  const text = await response.text();
  if (!response.ok) throw new Refused(response.status, explain(response, text));
  return text ? JSON.parse(text) : null;
}

export function explain({ status }, text) {
  try {
    const body = JSON.parse(text);
    if (body.Details || body.Message) return body.Details || body.Message;
  } catch {
    // No JSON: a proxy speaks.
  }
  if (status === 401) return "Please sign in: reload the page";
  if (status === 403) return "You may not do that from here";
  return `The answer was HTTP ${status}`;
}

export const get = (path, signal) => ask("GET", path, undefined, signal);
export const post = (path, value = {}, signal) => ask("POST", path, value, signal);

const path = (...parts) => `/${parts.map(encodeURIComponent).join("/")}`;

export const jobs = {
  get: (id) => get(path("jobs", id)),
  act: (id, action) => post(path("jobs", id, action)),
  receipt: (id) => get(path("jobs", id, "receipt")),
  receiptPath: (id) => url(path("jobs", id, "receipt")),
  throughput: (id) => get(path("jobs", id, "throughput")),
  prioritize: (id, priority) => ask("PUT", path("jobs", id, "priority"), priority),
};

export const peers = {
  all: () => get("/transfers/peers?expand"),
  test: (name) => post(path("transfers", "peers", name, "test")),
  find: (name, query, signal) => post(path("transfers", "peers", name, "find"), query, signal),
};

export const archive = {
  find: (query, signal) => post("/tools/find", query, signal),
  count: (query, signal) => post("/tools/count-resources", query, signal).then((answer) => answer.Count),
  statistics: () => get("/statistics"),
  tags: (id) => get(path("instances", id, "simplified-tags")),
  filePath: (id) => url(path("instances", id, "file")),
};

export const send = (request) => post("/transfers/send", request);
export const pull = (request) => post("/transfers/pull", request);
