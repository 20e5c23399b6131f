// The archive: patients, studies, series, instances; searched, sorted and paged by the daemon.

import { archive as api, get } from "./api.js";
import { cell, h, put, row, say, table, toast } from "./dom.js";
import { PATIENT_TAGS, STUDY_TAGS, searchForm } from "./find.js";
import { count, day, person, plural, short, size } from "./format.js";
import { isPush, live } from "./live.js";
import { transferButton } from "./send.js";
import { uploadPanel } from "./upload.js";

const PAGES = [50, 100, 200];
const RECEIVED = "ReceptionDate";
const CONTENT = ["MainDicomTags", "Parent", "RequestedTags", "Statistics"];

const tag = (found, name) => found.RequestedTags?.[name] || found.MainDicomTags?.[name] || found.PatientMainDicomTags?.[name] || "";
const diskSize = (found) => Number(found.Statistics?.DiskSize ?? 0);

/** One line for a resource, as it stands in lists of transfers too. */
export function titleOf(found) {
  const name = person(tag(found, "PatientName"));
  const id = tag(found, "PatientID");
  const rest = [tag(found, "StudyDescription"), tag(found, "SeriesDescription"), day(tag(found, "StudyDate"))];
  return [`${name || "No name"}${id ? ` (${id})` : ""}`, rest.filter(Boolean).join(", ")].filter(Boolean).join(": ");
}

const resource = (found) => ({ Level: found.Type, ID: found.ID, title: titleOf(found) });

// Lists that are paged.

const COLUMNS = {
  Study: [
    ["Patient name", "PatientName", (f) => person(tag(f, "PatientName")) || "No name"],
    ["Patient ID", "PatientID", (f) => tag(f, "PatientID")],
    ["Birth date", "PatientBirthDate", (f) => day(tag(f, "PatientBirthDate"))],
    ["Study date", "StudyDate", (f) => day(tag(f, "StudyDate"))],
    ["Description", "StudyDescription", (f) => tag(f, "StudyDescription")],
    ["Modality", null, (f) => tag(f, "ModalitiesInStudy").split("\\").join(", ")],
    ["Series", null, (f) => count(f.Statistics.CountSeries), "number"],
    ["Images", null, (f) => count(f.Statistics.CountInstances), "number"],
    ["Size", null, (f) => size(diskSize(f)), "number"],
  ],
  Patient: [
    ["Patient name", "PatientName", (f) => person(tag(f, "PatientName")) || "No name"],
    ["Patient ID", "PatientID", (f) => tag(f, "PatientID")],
    ["Birth date", "PatientBirthDate", (f) => day(tag(f, "PatientBirthDate"))],
    ["Sex", "PatientSex", (f) => tag(f, "PatientSex")],
    ["Studies", null, (f) => count(f.Statistics.CountStudies), "number"],
    ["Images", null, (f) => count(f.Statistics.CountInstances), "number"],
    ["Size", null, (f) => size(diskSize(f)), "number"],
  ],
  Series: [
    ["Number", "SeriesNumber", (f) => tag(f, "SeriesNumber") || "–", "number", "DicomTagAsInt"],
    ["Description", "SeriesDescription", (f) => tag(f, "SeriesDescription") || tag(f, "ProtocolName") || "Series"],
    ["Modality", "Modality", (f) => tag(f, "Modality")],
    ["Date", "SeriesDate", (f) => day(tag(f, "SeriesDate"))],
    ["Images", null, (f) => count(f.Statistics.CountInstances), "number"],
    ["Size", null, (f) => size(diskSize(f)), "number"],
  ],
  Instance: [
    ["Number", "InstanceNumber", (f) => tag(f, "InstanceNumber") || "–", "number", "DicomTagAsInt"],
    ["SOP instance UID", "SOPInstanceUID", (f) => tag(f, "SOPInstanceUID"), "code"],
    ["Size", null, (f) => size(f.Statistics?.DiskSize ?? 0), "number"],
  ],
};
const TAGS = { Study: STUDY_TAGS, Patient: PATIENT_TAGS, Series: ["PatientName", "PatientID", "StudyDescription", "StudyDate", "NumberOfSeriesRelatedInstances"], Instance: ["PatientName"] };
const LINKED = { Study: 0, Patient: 0, Series: 1, Instance: 1 };
const WORDS = { Study: ["study", "studies"], Patient: ["patient", "patients"], Series: ["series", "series"], Instance: ["image", "images"] };

/** A list of one level. `query()` tells what is searched, `parent` below what. */
function listOf(level, { query = () => ({}), parent = {}, order = { key: RECEIVED, way: "DESC" }, onCount } = {}) {
  const state = { since: 0, limit: PAGES[0], order, number: null };
  const chosen = new Map();
  const box = h("div", { class: "list", "aria-busy": "true" });
  const total = h("p", { class: "total", role: "status" });
  const pager = h("nav", { class: "pager", "aria-label": "Pages" });
  const problem = h("p", { class: "error", role: "alert", hidden: true });
  const place = h("div", {});
  const selected = h("div", { class: "selected" });
  const isPicked = level !== "Instance";
  put(box, h("div", { class: "over" }, total, selected), problem, place, pager);
  let controller = null;

  async function load({ keep = false } = {}) {
    controller?.abort();
    controller = new AbortController();
    const { signal } = controller;
    const question = { Level: level, Query: query(), ...parent };
    const way = [state.order.key === RECEIVED
      ? { Type: "Metadata", Key: RECEIVED, Direction: state.order.way }
      : { Type: state.order.type ?? "DicomTag", Key: state.order.key, Direction: state.order.way }];
    box.setAttribute("aria-busy", "true");
    if (!keep) state.number = null;
    try {
      const counting = state.number === null ? api.count(question, signal) : Promise.resolve(state.number);
      counting.catch(() => {}); // it is told below, unless the list itself fails
      const found = await api.find({
        ...question, Since: state.since, Limit: state.limit, OrderBy: way, RequestedTags: TAGS[level], ResponseContent: CONTENT,
      }, signal);
      problem.hidden = true;
      show(found);
      state.number = await counting;
      say(total, plural(state.number, ...WORDS[level]));
      onCount?.(state.number);
      showPager();
    } catch (error) {
      if (error.name === "AbortError") return;
      say(problem, error.message);
      problem.hidden = false;
    }
    box.setAttribute("aria-busy", "false");
  }

  function show(found) {
    const columns = COLUMNS[level].map(([name, key, , kind, type]) => ({
      name, key, kind: kind === "number" ? "number" : undefined,
      sort: key && { way: state.order.key === key ? state.order.way : undefined, choose: () => sortBy(key, type) },
    }));
    if (isPicked) columns.unshift({ name: "Choose", hidden: true });
    if (level !== "Instance") columns.push({ name: "Transfer", hidden: true });
    const lines = found.map((each) => line(each));
    if (!lines.length) {
      put(place, h("p", { class: "empty" }, Object.keys(query()).length ? "Nothing matches." : "Nothing here yet. Drop DICOM files, folders or ZIP archives anywhere on this page."));
    } else {
      put(place, table(`${level} list`, columns, lines));
    }
    showSelected();
  }

  function line(found) {
    const link = `#/${level.toLowerCase()}/${found.ID}`;
    const cells = COLUMNS[level].map(([name, , text, kind], n) => {
      const main = n === LINKED[level];
      const inside = main ? h("a", { href: link }, text(found)) : text(found);
      return cell(name, { class: [kind, main ? "main" : ""].filter(Boolean).join(" ") || undefined }, inside);
    });
    if (isPicked) {
      const box = h("input", { type: "checkbox", checked: chosen.has(found.ID), "aria-label": `Choose ${titleOf(found)}` });
      box.addEventListener("change", () => {
        if (box.checked) chosen.set(found.ID, resource(found));
        else chosen.delete(found.ID);
        showSelected();
      });
      cells.unshift(cell("Choose", { class: "pick" }, box));
      cells.push(cell("Transfer", { class: "end" }, transferButton(() => [resource(found)], { small: true, label: "Transfer" })));
    }
    return row(cells);
  }

  function showSelected() {
    put(selected, chosen.size > 0 && [
      h("span", {}, `${plural(chosen.size, ...WORDS[level])} chosen`),
      transferButton(() => [...chosen.values()], { small: true, label: "Transfers accelerator" }),
      h("button", { type: "button", class: "small", onclick: () => { chosen.clear(); load({ keep: true }); } }, "Clear"),
    ]);
  }

  function sortBy(key, type) {
    const way = state.order.key === key && state.order.way === "ASC" ? "DESC" : "ASC";
    state.order = state.order.key === key && state.order.way === "DESC" ? order : { key, way, type };
    go(0).then(() => place.querySelector(`th [data-column="${key}"]`)?.focus());
  }

  function go(since) {
    state.since = Math.max(0, since);
    return load({ keep: true });
  }

  function showPager() {
    const { since, limit, number } = state;
    const last = Math.max(0, Math.floor((number - 1) / limit) * limit);
    if (since > last) {
      go(last);
      return;
    }
    pager.hidden = number <= PAGES[0];
    const focused = pager.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    const button = (label, words, to, off) => h("button", { type: "button", class: "small", "aria-label": words, disabled: off, onclick: () => go(to) }, label);
    put(pager, button("«", "First page", 0, since === 0), button("‹", "Previous page", since - limit, since === 0),
      h("span", { class: "number" }, `${count(since + 1)}–${count(Math.min(number, since + limit))} of ${count(number)}`),
      button("›", "Next page", since + limit, since >= last), button("»", "Last page", last, since >= last),
      h("label", { class: "inline" }, "a page", h("select", {
        class: "small", "aria-label": "How many a page",
        onchange: (event) => { state.limit = Number(event.target.value); go(0); },
      }, PAGES.map((each) => h("option", { value: each, selected: each === limit }, each)))));
    if (focused) (pager.querySelector(`[aria-label="${focused}"]:enabled`) ?? pager.querySelector("button:enabled"))?.focus();
  }

  box.load = load;
  box.restart = () => {
    state.since = 0;
    return load();
  };
  return box;
}

/** Load again when something has come: by a pull, or an upload of ours. */
function refreshed(list) {
  const update = ({ detail }) => {
    if (detail.State === "Success" && !isPush(detail)) list.load();
  };
  live.addEventListener("ended", update);
  return () => live.removeEventListener("ended", update);
}

const remembered = { Study: {}, Patient: {} };

export function archiveView(main, level = "Study") {
  let list = null;
  const form = searchForm(level, remembered[level], () => {
    remembered[level] = form.values();
    form.query();
    list.restart();
  });
  list = listOf(level, { query: () => form.query() });
  const numbers = h("p", { class: "sub total-all" });
  const tab = (each, words) => h("a", { class: "tab", href: each === "Study" ? "#/archive" : "#/patients", "aria-current": each === level ? "page" : undefined }, words);
  const { button, panel, stop } = uploadPanel(() => list.load());
  put(main,
    h("div", { class: "head" }, h("h1", {}, "Archive"),
      h("div", { class: "tabs" }, tab("Study", "Studies"), tab("Patient", "Patients")), numbers, button),
    panel, form, list);
  list.load();
  api.statistics().then((all) => say(numbers, `${plural(all.CountPatients, "patient")}, ${plural(all.CountStudies, "study", "studies")}, ${plural(all.CountInstances, "image")}, ${size(all.TotalDiskSize)}`), () => {});
  const end = refreshed(list);
  return () => {
    end();
    stop();
  };
}

// One patient, study, series, or instance.

const ABOVE = { Study: "ParentPatient", Series: "ParentStudy", Instance: "ParentSeries" };
const BELOW = { Patient: "Study", Study: "Series", Series: "Instance" };
const UP = { Study: "Patient", Series: "Study", Instance: "Series" };
const SHOWN = [
  "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyDescription", "AccessionNumber", "InstitutionName",
  "ReferringPhysicianName", "StudyInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "Manufacturer",
  "StationName", "SeriesInstanceUID", "InstanceNumber", "SOPInstanceUID",
];

const readable = (name) => name.replace(/([a-z])([A-Z])/g, "$1 $2").replace(/([A-Z])([A-Z][a-z])/g, "$1 $2");

function shownValue(name, text) {
  if (name.endsWith("Date")) return day(text);
  return name.endsWith("Name") && name !== "InstitutionName" && name !== "StationName" ? person(text) : text;
}

async function findOne(level, id) {
  const plural_ = { Patient: "patients", Study: "studies", Series: "series", Instance: "instances" }[level];
  const found = await get(`/${plural_}/${encodeURIComponent(id)}`);
  const statistics = await get(`/${plural_}/${encodeURIComponent(id)}/statistics`).catch(() => null);
  return { ...found, Statistics: statistics };
}

/** The resource and all above it, from the patient down. */
async function lineage(level, id) {
  const found = [await findOne(level, id)];
  while (ABOVE[found[0].Type]) {
    found.unshift(await findOne(UP[found[0].Type], found[0][ABOVE[found[0].Type]]));
  }
  return found;
}

const names = { Patient: (f) => person(tag(f, "PatientName")) || tag(f, "PatientID") || "Patient", Study: (f) => tag(f, "StudyDescription") || day(tag(f, "StudyDate")) || "Study", Series: (f) => tag(f, "SeriesDescription") || `Series ${tag(f, "SeriesNumber")}`, Instance: (f) => `Image ${tag(f, "InstanceNumber") || short(f.ID)}` };

export function resourceView(main, level, id) {
  let end = () => {};
  let isGone = false;
  put(main, h("p", { class: "empty", role: "status" }, "Loading…"));
  lineage(level, id).then((line) => {
    if (isGone) return;
    const found = line.at(-1);
    const all = Object.assign({}, ...line.map((each) => each.MainDicomTags));
    const titled = { ...found, RequestedTags: all };
    const facts = SHOWN.filter((name) => all[name]).map((name) => [h("dt", {}, readable(name)), h("dd", {}, shownValue(name, all[name]))]);
    const numbers = found.Statistics && [h("dt", {}, "Images"), h("dd", {}, count(found.Statistics.CountInstances ?? 1)), h("dt", {}, "Size"), h("dd", {}, size(diskSize(found)))];
    const crumbs = h("p", { class: "crumbs" }, h("a", { href: "#/archive" }, "Archive"),
      line.slice(0, -1).map((each) => [" / ", h("a", { href: `#/${each.Type.toLowerCase()}/${each.ID}` }, names[each.Type](each))]));
    const head = h("div", { class: "head" }, h("h1", {}, h("span", { class: "level" }, level), " ", names[level](found)),
      level !== "Instance" && transferButton(() => [resource(titled)]));
    put(main, crumbs, head, h("dl", { class: "facts wide" }, facts, numbers));
    if (level === "Instance") {
      end = instanceParts(main, id);
      return;
    }
    const below = BELOW[level];
    const order = { Study: { key: "StudyDate", way: "DESC" }, Series: { key: "SeriesNumber", way: "ASC", type: "DicomTagAsInt" }, Instance: { key: "InstanceNumber", way: "ASC", type: "DicomTagAsInt" } }[below];
    const list = listOf(below, { parent: { [`Parent${level}`]: id }, order });
    main.append(h("h2", {}, { Study: "Studies", Series: "Series", Instance: "Images" }[below]), list);
    list.load();
    end = refreshed(list);
  }, (error) => {
    if (isGone) return;
    put(main, h("p", { class: "crumbs" }, h("a", { href: "#/archive" }, "Archive")), h("p", { class: "empty" }, error.message));
  });
  return () => {
    isGone = true;
    end();
  };
}

function instanceParts(main, id) {
  const place = h("div", {}, h("p", { class: "empty" }, "Loading the tags…"));
  main.append(h("p", {}, h("a", { class: "button", href: api.filePath(id), download: `${id}.dcm` }, "Download the file")), h("h2", {}, "Tags"), place);
  api.tags(id).then((tags) => {
    const lines = Object.entries(tags).map(([name, value]) => row(cell("Tag", { class: "main" }, name), cell("Value", { class: "break" }, valueOf(value))));
    put(place, table("All tags but the pixels", [{ name: "Tag" }, { name: "Value" }], lines));
  }, (error) => {
    put(place, h("p", { class: "error" }, error.message));
    toast(error.message, "bad");
  });
  return () => {};
}

function valueOf(value) {
  if (value === null) return "(binary)";
  return Array.isArray(value) ? JSON.stringify(value) : String(value);
}
