// What people type in the fields of a search, as a question for /tools/find.

import { h } from "./dom.js";
import { dates, pattern } from "./format.js";

const FIELDS = [
  ["PatientName", "Patient name"],
  ["PatientID", "Patient ID"],
  ["StudyDate", "Study date"],
  ["StudyDescription", "Description"],
  ["AccessionNumber", "Accession number"],
  ["ModalitiesInStudy", "Modality"],
];
const PATIENT_FIELDS = new Set(["PatientName", "PatientID"]);
const PAUSE_MS = 200;

export const STUDY_TAGS = [
  "PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyDescription", "AccessionNumber", "StudyInstanceUID",
  "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
];
export const PATIENT_TAGS = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedInstances"];

/** The fields; `changed()` is called a moment after the last key, `query()` gives the question. */
export function searchForm(level, values, changed) {
  let timer = 0;
  const inputs = FIELDS.filter(([tag]) => level === "Study" || PATIENT_FIELDS.has(tag)).map(([tag, label]) => {
    const id = `find-${tag}`;
    const input = h("input", {
      id, type: "search", name: tag, value: values[tag] ?? "", autocomplete: "off", spellcheck: "false",
      placeholder: tag === "StudyDate" ? "2026-03 .. 2026-05" : undefined,
    });
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(changed, PAUSE_MS);
    });
    return { tag, input, field: h("div", { class: "field" }, h("label", { for: id }, label), input) };
  });
  const form = h("form", { class: "search", role: "search" }, inputs.map(({ field }) => field));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    changed();
  });
  form.values = () => Object.fromEntries(inputs.map(({ tag, input }) => [tag, input.value]).filter(([, text]) => text.trim()));
  form.query = () => {
    const query = {};
    for (const { tag, input } of inputs) {
      const text = tag === "StudyDate" ? dates(input.value) : pattern(input.value);
      input.setCustomValidity(text === null ? "A day, a month, a year, or two of them with .. between" : "");
      input.setAttribute("aria-invalid", text === null ? "true" : "false");
      if (text) query[tag] = text;
    }
    return query;
  };
  return form;
}
