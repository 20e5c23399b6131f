// The list of transfers, and what can be done with each.

import { jobs as api } from "./api.js";
import { attribute, cell, h, keyed, put, row, say, table, toast } from "./dom.js";
import { count, dateTime, duration, moment, plural, rate, size } from "./format.js";
import { direction, done, fraction, isActive, isCancelled, isPush, left, live, rates, skipped, total, what } from "./live.js";

export const ACTIONS = {
  pause: { label: "Pause", states: ["Pending", "Running", "Retry"] },
  resume: { label: "Resume", states: ["Paused"] },
  resubmit: { label: "Resubmit", states: ["Failure"] },
  cancel: { label: "Cancel", states: ["Pending", "Running", "Retry", "Paused"] },
};

const WORDS = { Pending: "Waiting", Retry: "Will retry", Failure: "Failed", Success: "Done" };

export const stateWord = (job) => (isCancelled(job) ? "Cancelled" : WORDS[job.State] ?? job.State);

export function stateBadge() {
  const word = h("span", {});
  const badge = h("span", { class: "badge" }, word);
  badge.update = (job) => {
    say(word, stateWord(job));
    attribute(badge, "data-state", isCancelled(job) ? "Cancelled" : job.State);
  };
  return badge;
}

/** The buttons that make sense for a job in its state. */
export function actionButtons(job, names = Object.keys(ACTIONS)) {
  const buttons = names.map((name) => {
    const button = h("button", { type: "button", class: name === "cancel" ? "small danger" : "small" }, ACTIONS[name].label);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await api.act(job.ID, name);
      } catch (error) {
        toast(error.message, "bad");
      }
      button.disabled = false;
    });
    return { name, button };
  });
  const group = h("div", { class: "actions" }, buttons.map(({ button }) => button));
  group.update = (now) => {
    const focused = group.contains(document.activeElement) ? document.activeElement : null;
    for (const { name, button } of buttons) {
      button.hidden = !ACTIONS[name].states.includes(now.State);
      attribute(button, "aria-label", `${ACTIONS[name].label}: ${what(now)}`);
    }
    if (focused?.hidden) group.querySelector("button:not([hidden])")?.focus();
  };
  return group;
}

/** A bar and its words. */
export function progress() {
  const bar = h("progress", { max: 100, "aria-label": "Progress" });
  const text = h("span", { class: "number" });
  const box = h("div", { class: "progress" }, bar, text);
  box.update = (job) => {
    const percent = Math.floor(100 * fraction(job));
    if (bar.value !== percent) bar.value = percent;
    attribute(bar, "aria-label", `Progress of ${what(job)}`);
    attribute(bar, "data-state", isCancelled(job) ? "Cancelled" : job.State);
    say(text, `${percent} %`);
  };
  return box;
}

export function saved(job) {
  const compressed = Number(job.Content.SavedByCompression ?? 0);
  const parts = [];
  if (compressed) parts.push(`${size(compressed)} compressed`);
  if (job.Content.SkippedInstances) parts.push(`${size(skipped(job))} already there`);
  return parts.join(", ");
}

function speed(job) {
  if (job.State === "Running" && total(job)) {
    return rate(rates(job).now);
  }
  if (job.State === "Success" && done(job)) return rate(rates(job).average);
  return "";
}

const average = (job) => (job.State === "Running" && total(job) ? `${rate(rates(job).average)} on average` : "");

function when(job) {
  if (job.State === "Running") return Number.isNaN(left(job)) ? "" : `${duration(left(job))} left`;
  if (job.State === "Retry") return `again at ${dateTime(moment(job.NextTryTime))}`;
  if (job.CompletionTime) return `in ${duration(job.EffectiveRuntime)}, ${dateTime(moment(job.CompletionTime))}`;
  return `since ${dateTime(moment(job.CreationTime))}`;
}

function moved(job) {
  if (!total(job)) return job.State === "Success" ? "nothing to do" : "";
  const all = plural(job.Content.TotalInstances, "instance");
  if (job.State === "Success") return `${size(total(job))}, ${all}`;
  return `${size(done(job) + skipped(job))} of ${size(total(job))}, ${count(job.Content.CompletedInstances)} of ${all}`;
}

function jobRow(job) {
  const badge = stateBadge();
  const way = h("span", { class: "way", "aria-hidden": "true" }, isPush(job) ? "→" : "←");
  const title = h("a", { href: `#/transfer/${job.ID}` });
  const error = h("p", { class: "error", hidden: true });
  const bar = progress();
  const [bytes, speeds, mean, times, savings, retries] = Array.from({ length: 6 }, () => h("span", {}));
  const actions = actionButtons(job);
  const element = row(
    cell("State", { class: "state" }, badge),
    cell("Transfer", { class: "main" }, title,
      h("div", { class: "sub" }, way, h("span", {}, `${direction(job)} ${job.Content.Peer}`)), error),
    cell("Progress", { class: "wide" }, bar, h("div", { class: "sub" }, bytes)),
    cell("Speed", { class: "speed" }, h("div", {}, speeds), h("div", { class: "sub" }, mean), h("div", { class: "sub" }, times)),
    cell("Saved", {}, savings, h("div", { class: "sub" }, retries)),
    cell("Actions", { class: "end" }, actions),
  );
  element.update = (now) => {
    for (const part of [badge, bar, actions]) part.update(now);
    say(title, what(now));
    say(bytes, moved(now));
    say(speeds, speed(now));
    say(mean, average(now));
    say(times, when(now));
    say(savings, saved(now));
    say(retries, now.Content.Retries ? plural(now.Content.Retries, "retry", "retries") : "");
    const reason = !isCancelled(now) && now.ErrorCode ? now.ErrorDetails || now.ErrorDescription : "";
    say(error, reason);
    error.hidden = !reason;
  };
  return element;
}

const FILTERS = [
  ["all", "All", () => true],
  ["active", "Active", isActive],
  ["failed", "Failed", (job) => job.State === "Failure" && !isCancelled(job)],
  ["done", "Done", (job) => job.State === "Success"],
];

export function jobsView(main) {
  let chosen = FILTERS[0];
  const tabs = FILTERS.map((filter) => {
    const number = h("span", { class: "count" });
    const button = h("button", { type: "button", class: "tab", onclick: () => choose(filter) }, filter[1], number);
    return { filter, button, number };
  });
  const columns = ["State", "Transfer", "Progress", "Speed", "Saved"].map((name) => ({ name }));
  const list = table("Transfers, newest first", [...columns, { name: "Actions", hidden: true }], []);
  const body = list.querySelector("tbody");
  const empty = h("p", { class: "empty" });
  put(main, h("div", { class: "head" }, h("h1", {}, "Transfers"),
    h("div", { class: "tabs", role: "group", "aria-label": "Which transfers" }, tabs.map(({ button }) => button))), list, empty);

  function choose(filter) {
    chosen = filter;
    update();
  }

  function update() {
    const all = live.list();
    const shown = all.filter(chosen[2]);
    for (const { filter, button, number } of tabs) {
      attribute(button, "aria-pressed", filter === chosen ? "true" : "false");
      say(number, count(all.filter(filter[2]).length));
    }
    keyed(body, shown, (job) => job.ID, jobRow);
    list.hidden = !shown.length;
    empty.hidden = Boolean(shown.length);
    if (!live.isReady) say(empty, "Loading…");
    else say(empty, all.length ? "No transfer of this kind." : "No transfers yet. Open the archive, and send a study to a peer.");
  }

  live.addEventListener("jobs", update);
  update();
  return () => live.removeEventListener("jobs", update);
}
