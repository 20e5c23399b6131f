// Look what a peer holds, and fetch from it.

import { archive, HAS_ARCHIVE, peers as api } from "./api.js";
import { titleOf } from "./archive.js";
import { cell, h, put, row, say, table, toast } from "./dom.js";
import { STUDY_TAGS, searchForm } from "./find.js";
import { count, day, person, plural } from "./format.js";
import { live } from "./live.js";
import { compressionField, peerState, receive } from "./send.js";

const LIMIT = 50;
const tag = (found, name) => found.RequestedTags?.[name] || found.MainDicomTags?.[name] || found.PatientMainDicomTags?.[name] || "";

export function receiveView(main, wanted = "") {
  const select = h("select", { id: "peer", disabled: true });
  const state = h("span", {});
  const problem = h("p", { class: "error", role: "alert", hidden: true });
  const place = h("div", {});
  const total = h("p", { class: "total", role: "status" });
  const compression = compressionField("receive-compression");
  const pager = h("nav", { class: "pager", "aria-label": "Pages", hidden: true });
  let all = {};
  let since = 0;
  let controller = null;
  let shown = [];

  const form = searchForm("Study", {}, () => load(0));
  form.setAttribute("aria-label", "Search the peer");
  const known = h("details", { class: "known" }, h("summary", {}, "By its Orthanc identifier"), idForm());
  put(main, h("div", { class: "head" }, h("h1", {}, "Receive"),
    h("div", { class: "fields" }, h("div", {}, h("label", { for: "peer" }, "From peer"), h("span", { class: "inline" }, select, state)),
      h("div", {}, h("label", { for: "receive-compression" }, "Compression"), compression))),
  form, known, problem, total, place, pager);

  function fail(error) {
    if (error.name === "AbortError") return;
    say(problem, error.message);
    problem.hidden = false;
    put(place);
    say(total, "");
  }

  async function load(from) {
    const peer = select.value;
    if (!peer) return;
    controller?.abort();
    controller = new AbortController();
    since = Math.max(0, from);
    put(state, peerState(all[peer]));
    say(total, "Searching…");
    try {
      const found = await api.find(peer, {
        Level: "Study", Query: form.query(), Expand: true, Since: since, Limit: LIMIT + 1, RequestedTags: STUDY_TAGS,
        OrderBy: [{ Type: "DicomTag", Key: "StudyDate", Direction: "DESC" }],
      }, controller.signal);
      problem.hidden = true;
      const isMore = found.length > LIMIT;
      shown = found.slice(0, LIMIT);
      show(await here(shown, controller.signal));
      say(total, since || isMore ? `${count(since + 1)}–${count(since + shown.length)}${isMore ? ", and there are more" : ""}` : plural(shown.length, "study", "studies"));
      pager.hidden = since === 0 && !isMore;
      put(pager, h("button", { type: "button", class: "small", disabled: since === 0, onclick: () => load(since - LIMIT) }, "‹ Previous"),
        h("button", { type: "button", class: "small", disabled: !isMore, onclick: () => load(since + LIMIT) }, "Next ›"));
    } catch (error) {
      fail(error);
    }
  }

  /** Which of these are here already. */
  async function here(found, signal) {
    const uids = found.map((each) => tag(each, "StudyInstanceUID")).filter(Boolean);
    if (!HAS_ARCHIVE || !uids.length) return new Set();
    return new Set(await archive.find({ Level: "Study", Query: { StudyInstanceUID: uids.join("\\") } }, signal).catch(() => []));
  }

  function show(held) {
    const columns = ["Patient name", "Patient ID", "Birth date", "Study date", "Description", "Modality"].map((name) => ({ name }));
    columns.push({ name: "Images", kind: "number" }, { name: "Here" }, { name: "Receive", hidden: true });
    const lines = shown.map((found) => row(
      cell("Patient name", { class: "main" }, person(tag(found, "PatientName")) || "No name"),
      cell("Patient ID", {}, tag(found, "PatientID")),
      cell("Birth date", {}, day(tag(found, "PatientBirthDate"))),
      cell("Study date", {}, day(tag(found, "StudyDate"))),
      cell("Description", {}, tag(found, "StudyDescription")),
      cell("Modality", {}, tag(found, "ModalitiesInStudy").split("\\").join(", ")),
      cell("Images", { class: "number" }, tag(found, "NumberOfStudyRelatedInstances")),
      cell("Here", {}, held.has(found.ID) ? h("a", { href: `#/study/${found.ID}` }, "yes") : "no"),
      cell("Receive", { class: "end" }, fetchButton(found))));
    put(place, lines.length ? table(`Studies at ${select.value}`, columns, lines) : h("p", { class: "empty" }, "The peer has nothing that matches."));
  }

  function fetchButton(found) {
    const title = titleOf(found);
    const button = h("button", { type: "button", class: "yellow small", "aria-label": `Receive ${title}` }, "Receive");
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await receive(select.value, [{ Level: "Study", ID: found.ID }], compression.value, title);
      } catch (error) {
        toast(error.message, "bad");
      }
      button.disabled = false;
    });
    return button;
  }

  function idForm() {
    const level = h("select", { id: "level" }, ["Patient", "Study", "Series", "Instance"].map((each) => h("option", { selected: each === "Study" }, each)));
    const id = h("input", { id: "orthanc-id", required: true, spellcheck: "false", size: 44, placeholder: "xxxxxxxx-xxxxxxxx-xxxxxxxx-xxxxxxxx-xxxxxxxx" });
    const box = h("form", { class: "fields" }, h("div", {}, h("label", { for: "level" }, "Level"), level),
      h("div", {}, h("label", { for: "orthanc-id" }, "Identifier"), id), h("button", { type: "submit", class: "yellow" }, "Receive"));
    box.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await receive(select.value, [{ Level: level.value, ID: id.value.trim() }], compression.value);
        id.value = "";
      } catch (error) {
        toast(error.message, "bad");
      }
    });
    return box;
  }

  select.addEventListener("change", () => {
    history.replaceState(null, "", `#/receive/${encodeURIComponent(select.value)}`);
    load(0);
  });
  put(place, h("p", { class: "empty", role: "status" }, "Asking the peers…"));
  api.all().then((found) => {
    all = found;
    const names = Object.keys(found);
    put(select, names.map((name) => h("option", { value: name, selected: name === wanted }, name)));
    select.disabled = !names.length;
    if (!names.length) put(place, h("p", { class: "empty" }, "No peers are configured: name them in OrthancPeers."));
    else if (!names.includes(wanted)) select.value = names.find((name) => found[name].State !== "disabled") ?? names[0];
    return load(0);
  }).catch(fail);

  const update = async ({ detail }) => {
    if (detail.State === "Success" && shown.length) show(await here(shown));
  };
  live.addEventListener("ended", update);
  return () => live.removeEventListener("ended", update);
}

