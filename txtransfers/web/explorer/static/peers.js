// The peers: who is reachable, what works with them step by step, and what was transferred last.

import { HAS_ARCHIVE, peers as api } from "./api.js";
import { cell, h, keyed, put, row, say, table } from "./dom.js";
import { dateTime, milliseconds, moment } from "./format.js";
import { stateWord } from "./jobs.js";
import { direction, live, what } from "./live.js";
import { peerState, peerVersion, roundTrip } from "./send.js";

const LAST = 3;
const MARKS = { Passed: "✓", Failed: "✗", LeftOut: "–" };
const RESULTS = { Passed: "passed", Failed: "failed", LeftOut: "left out" };

function stepItem({ Step, Result, Details, Advice, Milliseconds }) {
  return h("li", { class: "step", "data-result": Result },
    h("span", { class: "mark-of-step", "aria-hidden": "true" }, MARKS[Result]),
    h("div", {}, h("strong", {}, Step), h("span", { class: "hidden" }, ` ${RESULTS[Result]}`),
      Milliseconds !== undefined && h("span", { class: "sub number" }, ` ${milliseconds(Milliseconds)}`),
      h("div", { class: "details" }, Details),
      Advice && h("div", { class: "advice-line" }, Advice)));
}

function lastTransfers(name) {
  const list = h("ul", { class: "plain-list" });
  list.update = () => {
    const found = live.list().filter((job) => job.Content.Peer === name).slice(0, LAST);
    keyed(list, found, ({ ID }) => ID, (job) => {
      const link = h("a", { href: `#/transfer/${job.ID}` });
      const rest = h("span", { class: "sub" });
      const item = h("li", {}, link, " ", rest);
      item.update = (now) => {
        say(link, what(now));
        say(rest, `${direction(now)} it, ${stateWord(now).toLowerCase()}, ${dateTime(moment(now.CompletionTime ?? now.CreationTime))}`);
      };
      return item;
    });
    if (!found.length) put(list, h("li", { class: "sub" }, "None"));
  };
  list.update();
  return list;
}

export function peersView(main) {
  const place = h("div", {}, h("p", { class: "empty", role: "status" }, "Asking the peers…"));
  const again = h("button", { type: "button", onclick: load }, "Ask again");
  put(main, h("div", { class: "head" }, h("h1", {}, "Peers"), again), place);
  let lists = [];

  function peerRow(peer) {
    const result = h("div", { class: "result", role: "status" });
    const below = row(h("td", { role: "cell", colspan: 7, class: "result-cell" }, result));
    below.hidden = true;
    const test = h("button", { type: "button", class: "small", "aria-label": `Test ${peer.Name}` }, "Test this peer");
    test.addEventListener("click", async () => {
      test.disabled = true;
      below.hidden = false;
      put(result, h("p", { class: "sub" }, "Trying…"));
      try {
        const { Passed, Steps } = await api.test(peer.Name);
        put(result, h("p", {}, h("strong", {}, peer.Name), Passed ? ": all is well." : ": something is in the way."), h("ol", { class: "steps" }, Steps.map(stepItem)));
      } catch (error) {
        put(result, h("p", { class: "error" }, error.message));
      }
      test.disabled = false;
    });
    const last = lastTransfers(peer.Name);
    lists.push(last);
    const mode = peer.Mode === "pull" ? `pull: it knows us as "${peer.RemoteSelf}"` : "push";
    const element = row(
      cell("Peer", { class: "main" }, h("strong", { class: "name" }, peer.Name), h("div", { class: "sub name" }, peer.Url)),
      cell("State", { class: "state" }, peerState(peer), peer.Reason && h("div", { class: "error" }, peer.Reason)),
      cell("Version", {}, peerVersion(peer) || "–", peer.RemoteName && h("div", { class: "sub" }, `called ${peer.RemoteName}`)),
      cell("Mode", {}, mode),
      cell("Round trip", { class: "number" }, roundTrip(peer) || "–"),
      cell("Last transfers", {}, last),
      cell("Actions", { class: "end" }, h("div", { class: "actions" }, test,
        HAS_ARCHIVE && h("a", { class: "button small", href: `#/receive/${encodeURIComponent(peer.Name)}` }, "Receive from…"))));
    return [element, below];
  }

  async function load() {
    again.disabled = true;
    try {
      const found = Object.values(await api.all());
      lists = [];
      const columns = ["Peer", "State", "Version", "Mode"].map((name) => ({ name }));
      columns.push({ name: "Round trip", kind: "number" }, { name: "Last transfers" }, { name: "Actions", hidden: true });
      put(place, found.length ? table("Peers", columns, found.flatMap(peerRow)) : h("p", { class: "empty" }, "No peers are configured: name them in OrthancPeers."));
    } catch (error) {
      put(place, h("p", { class: "error", role: "alert" }, error.message));
    }
    again.disabled = false;
  }

  const update = () => lists.forEach((list) => list.update());
  live.addEventListener("jobs", update);
  load();
  return () => live.removeEventListener("jobs", update);
}
