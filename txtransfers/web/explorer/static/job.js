// One transfer: how it goes, why it failed, and what became of each instance.

import { jobs as api } from "./api.js";
import { chart } from "./chart.js";
import { cell, dialog, h, put, row, say, table, toast } from "./dom.js";
import { count, dateTime, duration, milliseconds, moment, plural, rate, short, size } from "./format.js";
import { actionButtons, progress, saved, stateBadge } from "./jobs.js";
import { direction, done, isActive, isCancelled, left, live, rates, skipped, total, what } from "./live.js";

const MOST_SHOWN = 500;

function facts(job) {
  const { Content: content } = job;
  const { now, average } = rates(job);
  const running = job.State === "Running";
  return [
    ["Peer", `${direction(job)} ${content.Peer}`],
    ["Resources", (content.Resources ?? []).slice(0, 3).map(({ Level, ID }) => `${Level} ${short(ID)}…`).join(", ")],
    ["Instances", content.TotalInstances === undefined ? "" : job.State === "Success" ? count(content.TotalInstances) : `${count(content.CompletedInstances)} of ${count(content.TotalInstances)}`],
    ["Bytes", total(job) ? `${size(done(job) + skipped(job))} of ${size(total(job))}` : ""],
    ["Speed", done(job) ? [running && `${rate(now)} now`, `${rate(average)} on average`].filter(Boolean).join(", ") : ""],
    ["Time left", running ? duration(left(job)) : ""],
    ["Running for", duration(job.EffectiveRuntime)],
    ["On the wire", content.NetworkSize === undefined ? "" : size(content.NetworkSize)],
    ["Saved", saved(job)],
    ["Already there", content.SkippedInstances ? plural(content.SkippedInstances, "instance") : ""],
    ["Retries", content.Retries ? count(content.Retries) : ""],
    ["Sent again", Number(content.RepeatedSize) ? size(content.RepeatedSize) : ""],
    ["Compression", content.Codec && content.Codec !== content.Compression ? `${content.Compression} (${content.Codec})` : content.Compression],
    ["Buckets", content.Buckets === undefined ? "" : `${count(content.CompletedHttpQueries)} of ${count(content.Buckets)}`],
    ["In flight", running && content.MaxBucketsInFlight ? `${count(content.BucketsInFlight)} of up to ${count(content.MaxBucketsInFlight)} buckets` : ""],
    ["Round trip", content.RoundTripMs === undefined ? "" : milliseconds(content.RoundTripMs)],
    ["Next try", job.NextTryTime ? dateTime(moment(job.NextTryTime)) : ""],
    ["Asked for", dateTime(moment(job.CreationTime))],
    ["Ended", dateTime(moment(job.CompletionTime))],
    ["Outcomes", Object.entries(content.Outcomes ?? {}).map(([name, number]) => `${count(number)} ${spaced(name)}`).join(", ")],
  ].filter(([, text]) => text);
}

const spaced = (name) => name.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();

/** The buckets on their way, as little boxes. */
function flight() {
  const boxes = h("div", { class: "flight", "aria-hidden": "true" });
  boxes.update = (job) => {
    const most = Math.min(64, job.Content.MaxBucketsInFlight ?? 0);
    const now = Math.min(64, job.Content.BucketsInFlight ?? 0);
    boxes.hidden = job.State !== "Running" || !most;
    while (boxes.children.length < most) boxes.append(h("span", {}));
    while (boxes.children.length > most) boxes.lastChild.remove();
    [...boxes.children].forEach((box, n) => box.classList.toggle("full", n < now));
  };
  return boxes;
}

function priorityField(job) {
  const field = h("input", { type: "number", id: "priority", step: 1, min: -2147483647, max: 2147483647, class: "short" });
  const form = h("form", { class: "inline" }, h("label", { for: "priority" }, "Priority"), field,
    h("button", { type: "submit", class: "small" }, "Set"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await api.prioritize(job, Number(field.value));
      toast("The priority is set");
    } catch (error) {
      toast(error.message, "bad");
    }
  });
  form.update = (now) => {
    form.hidden = !isActive(now);
    if (document.activeElement !== field && field.value !== String(now.Priority)) field.value = now.Priority;
  };
  return form;
}

async function showReceipt(id) {
  let receipt;
  try {
    receipt = await api.receipt(id);
  } catch (error) {
    toast(error.message, "bad");
    return;
  }
  const instances = receipt.Instances ?? [];
  const lines = instances.slice(0, MOST_SHOWN).map((each) => row(
    cell("Instance", { class: "code" }, each.ID),
    cell("Size", { class: "number" }, size(each.Size)),
    cell("MD5", { class: "code" }, each.MD5),
    cell("Outcome", {}, spaced(each.Outcome))));
  const columns = [{ name: "Instance" }, { name: "Size", kind: "number" }, { name: "MD5" }, { name: "Outcome" }];
  await dialog("Receipt", () => [
    h("p", {}, `${receipt.Daemon} ${receipt.Type === "PullTransfer" ? "fetched from" : "sent to"} ${receipt.Peer} (${receipt.PeerURL || "not configured any more"}): `,
      `${plural(receipt.TotalInstances, "instance")}, ${size(receipt.TotalSize)}. Ended ${dateTime(moment(receipt.CompletionTime))}.`),
    lines.length ? table("What became of each instance", columns, lines) : h("p", { class: "empty" }, "No instances."),
    instances.length > MOST_SHOWN && h("p", { class: "sub" }, `The first ${count(MOST_SHOWN)} of ${count(instances.length)}; the file has all.`),
    h("div", { class: "dialog-end" }, h("a", { class: "button", href: api.receiptPath(id), download: `receipt-${id}.json` }, "Download")),
  ].filter(Boolean));
}

export function jobView(main, id) {
  const title = h("h1", {});
  const badge = stateBadge();
  const bar = progress();
  const boxes = flight();
  const picture = chart();
  const advice = h("section", { class: "advice", "aria-label": "What went wrong", hidden: true });
  const list = h("dl", { class: "facts" });
  const history = h("ol", { class: "history" });
  const priority = priorityField(id);
  const receipt = h("button", { type: "button", class: "small", onclick: () => showReceipt(id) }, "Receipt");
  const missing = h("p", { class: "empty" }, "Loading…");
  const parts = h("div", { hidden: true });
  let actions = null;
  let shown = "";
  let points = null;

  put(main, h("p", { class: "crumbs" }, h("a", { href: "#/transfers" }, "Transfers"), " / ", short(id)), missing, parts);

  function build(job) {
    actions = actionButtons(job);
    put(parts, h("div", { class: "head" }, h("div", { class: "title" }, title, badge),
      h("div", { class: "actions" }, priority, receipt, actions)),
    advice, h("div", { class: "big" }, bar, boxes),
    h("div", { class: "columns" },
      h("section", { "aria-labelledby": "facts" }, h("h2", { id: "facts" }, "Figures"), list),
      h("section", { "aria-labelledby": "chart" }, h("h2", { id: "chart" }, "Throughput"), picture,
        h("h2", {}, "History"), history)));
  }

  function update() {
    const job = live.jobs.get(id);
    parts.hidden = !job;
    missing.hidden = Boolean(job);
    if (!job) {
      say(missing, live.isReady ? "This transfer is not known (any more)." : "Loading…");
      return;
    }
    if (!actions) build(job);
    say(title, what(job));
    for (const part of [badge, bar, boxes, priority, actions]) part.update(job);
    receipt.hidden = isActive(job);
    const failed = job.ErrorCode && !isCancelled(job);
    advice.hidden = !failed;
    if (failed) put(advice, h("h2", {}, job.State === "Retry" ? "It will be tried again" : "Why it failed"), h("p", {}, job.ErrorDetails || job.ErrorDescription));
    const now = facts(job);
    if (list.children.length !== now.length * 2) {
      put(list, now.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]));
    } else {
      now.forEach(([name, text], n) => {
        say(list.children[2 * n], name);
        say(list.children[2 * n + 1], text);
      });
    }
    if (shown !== job.State) {
      shown = job.State;
      more();
    } else if (points && job.State === "Running" && job.EffectiveRuntime > (points.Seconds.at(-1) ?? 0)) {
      points.Seconds.push(job.EffectiveRuntime);
      points.Done.push(done(job));
      points.Network.push(Number(job.Content.NetworkSize ?? 0));
      picture.update(points);
    }
  }

  /** What the stream leaves out; asked for at the start, and when the state has changed. */
  async function more() {
    try {
      const [job, known] = await Promise.all([api.get(id), api.throughput(id)]);
      points = known;
      put(history, job.History.toReversed().map(({ Time, Event }) => h("li", {},
        h("time", { class: "number" }, dateTime(moment(Time))), " ", h("span", {}, Event))));
      picture.update(points);
    } catch (error) {
      if (error.status !== 404 && error.status !== 0) toast(error.message, "bad");
    }
  }

  live.addEventListener("jobs", update);
  update();
  return () => live.removeEventListener("jobs", update);
}
