// Files, folders and ZIP archives, dropped anywhere or chosen: some at a time, with progress.

import { explain, url } from "./api.js";
import { h, put, say, toast } from "./dom.js";
import { count, plural, size } from "./format.js";

const AT_ONCE = 3;
const NOT_DICOM = 400;
const MOST_PROBLEMS = 20;

/** All files below what was dropped; entries must be taken before the event ends. */
async function filesOf(entries) {
  const found = [];
  const waiting = [...entries];
  while (waiting.length) {
    const entry = waiting.shift();
    if (entry.isFile) {
      found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    } else if (entry.isDirectory) {
      const reader = entry.createReader();
      for (;;) {
        const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (!some.length) break;
        waiting.push(...some);
      }
    }
  }
  return found;
}

function store(file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells no progress of what is sent
    request.open("POST", url("/instances"));
    request.upload.onprogress = ({ loaded }) => onProgress(loaded);
    request.onload = () => {
      if (request.status === 200) resolve([JSON.parse(request.responseText)].flat());
      else reject(Object.assign(new Error(explain(request, request.responseText)), { status: request.status }));
    };
    request.onerror = () => reject(Object.assign(new Error("The connection broke"), { status: 0 }));
    request.send(file);
  });
}

class Upload {
  waiting = [];
  active = new Map();
  total = 0;
  size = 0;
  doneSize = 0;
  files = 0;
  stored = 0;
  known = 0;
  strange = 0;
  problems = [];
  stopped = false;

  constructor(changed, ended) {
    this.changed = changed;
    this.ended = ended;
  }

  add(files) {
    this.waiting.push(...files);
    this.total += files.length;
    this.size += files.reduce((sum, file) => sum + file.size, 0);
    while (this.active.size < AT_ONCE && this.waiting.length) this.#next();
    this.changed();
  }

  get isBusy() {
    return this.active.size > 0 || this.waiting.length > 0;
  }

  stop() {
    this.total -= this.waiting.length;
    this.waiting.forEach((file) => { this.size -= file.size; });
    this.waiting = [];
    this.changed();
  }

  async #next() {
    const file = this.waiting.shift();
    this.active.set(file, 0);
    try {
      const told = await store(file, (loaded) => {
        this.active.set(file, Math.min(loaded, file.size));
        this.changed();
      });
      for (const { Status } of told) {
        if (Status === "AlreadyStored") this.known += 1;
        else this.stored += 1;
      }
    } catch (error) {
      if (error.status === NOT_DICOM) this.strange += 1;
      else if (this.problems.length < MOST_PROBLEMS) this.problems.push(`${file.name}: ${error.message}`);
    }
    this.active.delete(file);
    this.doneSize += file.size;
    this.files += 1;
    if (this.waiting.length) this.#next();
    this.changed();
    if (!this.isBusy) this.ended();
  }

  get sent() {
    return [...this.active.values()].reduce((sum, loaded) => sum + loaded, this.doneSize);
  }
}

let upload = null; // it goes on while one looks at other parts of the page

export function uploadPanel(stored) {
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Upload" });
  const text = h("p", { role: "status" });
  const problems = h("ul", { class: "error" });
  const stop = h("button", { type: "button", class: "small", onclick: () => upload?.stop() }, "Stop");
  const close = h("button", { type: "button", class: "small", onclick: () => { upload = null; update(); } }, "Close");
  const panel = h("section", { class: "upload", hidden: true, "aria-label": "Upload" }, h("div", { class: "progress" }, bar, stop, close), text, problems);
  const input = h("input", { type: "file", multiple: true, hidden: true, id: "files" });
  const folder = h("input", { type: "file", multiple: true, hidden: true, webkitdirectory: true, id: "folder" });
  const button = h("div", { class: "actions" }, input, folder,
    h("button", { type: "button", onclick: () => input.click() }, "Upload files…"),
    h("button", { type: "button", onclick: () => folder.click() }, "Upload a folder…"));

  function update() {
    panel.hidden = upload === null;
    if (!upload) return;
    bar.value = upload.size ? upload.sent / upload.size : 1;
    stop.hidden = !upload.isBusy;
    close.hidden = upload.isBusy;
    const parts = [
      upload.isBusy ? `${count(upload.files)} of ${plural(upload.total, "file")}, ${size(upload.sent)} of ${size(upload.size)}` : plural(upload.total, "file"),
      `${count(upload.stored)} stored`,
      upload.known && `${count(upload.known)} were there already`,
      upload.strange && `${count(upload.strange)} are no DICOM`,
      upload.problems.length && `${count(upload.problems.length)} failed`,
    ];
    say(text, parts.filter(Boolean).join(" · "));
    if (problems.children.length !== upload.problems.length) put(problems, upload.problems.map((each) => h("li", {}, each)));
  }

  function take(files) {
    if (!files.length) return;
    upload = upload?.isBusy ? upload : new Upload(() => {}, () => {});
    attach();
    upload.add(files);
  }

  function attach() {
    if (!upload) return;
    upload.changed = update;
    upload.ended = () => {
      update();
      stored();
    };
    update();
  }

  for (const each of [input, folder]) {
    each.addEventListener("change", () => {
      take([...each.files]);
      each.value = "";
    });
  }
  const over = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  const out = (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  };
  const drop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = [...event.dataTransfer.files];
    (entries.length ? filesOf(entries) : Promise.resolve(files)).then(take, (error) => toast(`That cannot be read: ${error.message}`, "bad"));
  };
  const listeners = { dragover: over, dragenter: over, dragleave: out, drop };
  for (const [name, listener] of Object.entries(listeners)) document.addEventListener(name, listener);
  attach();
  return {
    button,
    panel,
    stop: () => {
      for (const [name, listener] of Object.entries(listeners)) document.removeEventListener(name, listener);
      if (upload) {
        upload.changed = () => {};
        upload.ended = () => {};
      }
    },
  };
}
