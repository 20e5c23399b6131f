// Which view is shown, what the bar says, and the colours.

import { HAS_ARCHIVE, NAME } from "./api.js";
import { archiveView, resourceView } from "./archive.js";
import { attribute, h, put, say, toast } from "./dom.js";
import { count } from "./format.js";
import { jobView } from "./job.js";
import { jobsView, stateWord } from "./jobs.js";
import { isActive, isCancelled, live, what } from "./live.js";
import { peersView } from "./peers.js";
import { receiveView } from "./receive.js";

const main = document.getElementById("main");

const SECTIONS = [
  ...(HAS_ARCHIVE ? [["archive", "Archive"]] : []),
  ["transfers", "Transfers"],
  ...(HAS_ARCHIVE ? [["receive", "Receive"]] : []),
  ["peers", "Peers"],
];

const ROUTES = [
  ["archive", "archive", () => archiveView(main)],
  ["patients", "archive", () => archiveView(main, "Patient")],
  ...["Patient", "Study", "Series", "Instance"].map((level) => [level.toLowerCase(), "archive", (id) => resourceView(main, level, id)]),
  ["transfers", "transfers", () => jobsView(main)],
  ["transfer", "transfers", (id) => jobView(main, id)],
  ["receive", "receive", (peer) => receiveView(main, peer)],
  ["peers", "peers", () => peersView(main)],
].filter(([, section]) => SECTIONS.some(([name]) => name === section));

const HOME = SECTIONS[0][0];

// Views

let leave = () => {};
let isFirst = true;

function show() {
  const [, name = "", ...rest] = location.hash.split("/");
  const route = ROUTES.find(([path]) => path === name) ?? ROUTES.find(([path]) => path === HOME);
  const [, section, view] = route;
  leave();
  document.body.classList.remove("dropping");
  main.dataset.view = route[0];
  leave = view(decode(rest.join("/"))) ?? (() => {});
  for (const link of document.querySelectorAll("#nav a")) attribute(link, "aria-current", link.dataset.section === section ? "page" : null);
  document.title = `${SECTIONS.find(([each]) => each === section)[1]} · ${NAME} · txtransfers`;
  if (!isFirst) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  isFirst = false;
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// The bar

const running = h("span", { class: "count", hidden: true });

put(document.getElementById("nav"), SECTIONS.map(([name, label]) => h("li", {},
  h("a", { href: `#/${name}`, dataset: { section: name } }, label, name === "transfers" && running))));

live.addEventListener("jobs", () => {
  const number = live.list().filter(isActive).length;
  running.hidden = !number;
  say(running, count(number));
  attribute(running, "aria-label", `${number} active`);
});

const LINES = { live: "Live", connecting: "Connecting…", lost: "Reconnecting…" };
const line = document.getElementById("live");

live.addEventListener("state", () => {
  line.dataset.state = live.state;
  say(line.firstElementChild, LINES[live.state]);
});

live.addEventListener("ended", ({ detail }) => {
  const link = h("a", { href: `#/transfer/${detail.ID}` }, what(detail));
  if (detail.State === "Success") toast([`${stateWord(detail)}: `, link]);
  else if (!isCancelled(detail)) toast([`${stateWord(detail)}: `, link], "bad");
});

// Colours

const THEMES = ["system", "light", "dark"];
const WORDS = { system: "Auto", light: "Light", dark: "Dark" };
const themeButton = document.getElementById("theme");

function theme() {
  return document.documentElement.dataset.theme ?? "system";
}

function showTheme() {
  say(themeButton, `◐ ${WORDS[theme()]}`);
  attribute(themeButton, "aria-label", `Colours: ${WORDS[theme()]}`);
}

themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("theme", next);
  } catch {
    // It holds for this page, then.
  }
  showTheme();
});

showTheme();
addEventListener("hashchange", show);
live.start();
show();
