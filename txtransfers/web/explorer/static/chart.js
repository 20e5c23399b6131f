// A small chart of bytes a second over the time of a transfer.

import { h, put, svg } from "./dom.js";
import { duration, rate } from "./format.js";

const WIDTH = 720;
const HEIGHT = 180;
const LEFT = 4;
const BOTTOM = 20;
const TOP = 18;

/** From totals at some seconds, the rates between them. */
export function slopes(seconds, totals) {
  const found = [];
  let before = { second: 0, total: 0 };
  seconds.forEach((second, n) => {
    const span = second - before.second;
    if (span <= 0) return;
    found.push({ from: before.second, to: second, value: Math.max(0, totals[n] - before.total) / span });
    before = { second, total: totals[n] };
  });
  return found;
}

function nice(value) {
  const unit = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= value) ?? value;
}

export function chart() {
  const box = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none" });
  const label = h("figcaption");
  const figure = h("figure", {}, box, label);
  figure.update = ({ Seconds, Done, Network }) => {
    const content = slopes(Seconds, Done);
    const network = slopes(Seconds, Network);
    const end = Seconds.at(-1) ?? 0;
    const most = nice(Math.max(1, ...content.map(({ value }) => value), ...network.map(({ value }) => value)));
    const x = (second) => LEFT + ((WIDTH - 2 * LEFT) * second) / (end || 1);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / most);
    const steps = (points) => points.map(({ from, to, value }, n) => `${n ? "L" : "M"}${x(from).toFixed(1)} ${y(value).toFixed(1)}H${x(to).toFixed(1)}`).join("");
    const line = steps(content);
    put(box,
      [0, 0.5, 1].map((share) => svg("path", { class: "grid", d: `M${LEFT} ${y(most * share)}H${WIDTH - LEFT}` })),
      line && svg("path", { class: "area", d: `${line}V${y(0)}H${x(0)}Z` }),
      line && svg("path", { class: "line", d: line }),
      network.length > 0 && svg("path", { class: "network", d: steps(network) }));
    const average = end ? (Done.at(-1) ?? 0) / end : 0;
    const text = content.length
      ? `Up to ${rate(Math.max(...content.map(({ value }) => value)))}, ${rate(average)} on average, over ${duration(end)}; full height is ${rate(most)}.`
      : "Nothing has moved yet.";
    box.setAttribute("aria-label", `Throughput. ${text}`);
    const key = (name, words) => h("span", { class: "key-word" }, h("span", { class: `key ${name}` }), ` ${words}`);
    put(label, text, " ", key("images", "images"), " ", key("network", "on the wire"));
  };
  return figure;
}
