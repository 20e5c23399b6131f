// The stream of events, and the jobs as it tells them. One stream a page; it comes back by itself.

import { url } from "./api.js";

const KEPT = 6; // seconds over which the rate of now is the average
const HIDDEN_MS = 10_000; // a page that nobody sees lets its connection go: browsers have six a host
const ENDED = new Set(["Success", "Failure"]);

/** Fires "jobs" when any has changed, "ended" (detail: the job) at each end, "state" of the line. */
class Live extends EventTarget {
  jobs = new Map();
  state = "connecting";
  isReady = false;
  #last = "";
  #source = null;
  #stale = new Set();
  #tries = 0;
  #timer = 0;
  #scheduled = false;

  start() {
    this.#connect();
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.#timer);
      if (document.hidden) this.#timer = setTimeout(() => this.#close(), HIDDEN_MS);
      else if (!this.#source) this.#connect();
    });
    // One that is kept for the way back would keep its connection too.
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", ({ persisted }) => {
      if (persisted && !this.#source) this.#connect();
    });
  }

  /** Newest first. */
  list() {
    return [...this.jobs.values()].reverse();
  }

  #connect() {
    const after = this.#last ? `?last-event-id=${encodeURIComponent(this.#last)}` : "";
    const source = new EventSource(url(`/transfers/events${after}`));
    this.#source = source;
    const on = (kind, take) => source.addEventListener(kind, (event) => {
      if (event.lastEventId) this.#last = event.lastEventId;
      take(JSON.parse(event.data));
    });
    on("reset", () => {
      this.#stale = new Set(this.jobs.keys());
    });
    on("job", (job) => this.#take(job));
    on("forgotten", ({ ID }) => {
      this.jobs.delete(ID);
      this.#changed();
    });
    on("ready", () => {
      for (const id of this.#stale) this.jobs.delete(id);
      this.#stale.clear();
      this.#tries = 0;
      this.isReady = true;
      this.#say("live");
      this.#changed();
    });
    source.onerror = () => {
      if (this.#source !== source) return;
      this.#say("lost");
      // A browser tries again by itself after a broken connection, but not after a refusal.
      if (source.readyState === EventSource.CLOSED) {
        this.#close();
        const delay = Math.min(10_000, 1000 * 2 ** this.#tries);
        this.#tries += 1;
        this.#timer = setTimeout(() => this.#connect(), delay);
      }
    };
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #take(job) {
    const known = this.jobs.get(job.ID);
    job.samples = known?.State === "Running" && job.State === "Running" ? known.samples : [];
    if (job.State === "Running") {
      const now = performance.now() / 1000;
      job.samples = [...job.samples.filter(({ at }) => now - at < KEPT), { at: now, done: done(job) }];
    }
    this.#stale.delete(job.ID);
    this.jobs.set(job.ID, job);
    if (known && !ENDED.has(known.State) && ENDED.has(job.State)) {
      this.dispatchEvent(new CustomEvent("ended", { detail: job }));
    }
    this.#changed();
  }

  #changed() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.dispatchEvent(new Event("jobs"));
    });
  }

  #say(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

export const live = new Live();

// What a job says of itself, in numbers.

export const isPush = (job) => job.Type !== "PullTransfer"; // a pull by the peer, too
export const direction = (job) => (isPush(job) ? "to" : "from");
export const isActive = (job) => !ENDED.has(job.State);
export const isCancelled = (job) => job.State === "Failure" && job.ErrorCode === 37;
export const total = (job) => Number(job.Content.TotalSize ?? 0);
export const skipped = (job) => Number(job.Content.SkippedSize ?? 0);
export const done = (job) => Number(job.Content.UploadedSize ?? job.Content.DownloadedSize ?? 0);

/** From 0 to 1; what the receiver had already counts as done. */
export function fraction(job) {
  if (job.State === "Success") return 1;
  const all = total(job);
  return all ? Math.min(1, (done(job) + skipped(job)) / all) : 0;
}

/** Bytes a second, before compression: over the last seconds, and over all. */
export function rates(job) {
  const average = job.EffectiveRuntime > 0 ? done(job) / job.EffectiveRuntime : 0;
  const [first, last] = [job.samples?.[0], job.samples?.at(-1)];
  const now = first && last && last.at - first.at > 0.5 ? (last.done - first.done) / (last.at - first.at) : null;
  return { average, now: now ?? average };
}

/** Seconds until its end, as far as one can tell. */
export function left(job) {
  if (job.State !== "Running" || !total(job)) return NaN;
  const { now, average } = rates(job);
  const speed = now > 0 ? now : average;
  return speed > 0 ? (total(job) - skipped(job) - done(job)) / speed : NaN;
}

export function what(job) {
  if (job.Content.Description) return job.Content.Description;
  const named = job.Content.Resources ?? [];
  if (!named.length) return "Nothing";
  const more = named.length > 1 ? ` and ${named.length === 20 ? "more" : `${named.length - 1} more`}` : "";
  return `${named[0].Level} ${named[0].ID.slice(0, 8)}…${more}`;
}
