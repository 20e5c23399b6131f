// Three clicks: the yellow button, a peer, "Send".

import { peers as peersApi, pull, send } from "./api.js";
import { dialog, h, put, toast } from "./dom.js";
import { milliseconds, plural } from "./format.js";

const COMPRESSIONS = [
  ["auto", "Automatic", "what pays on this line"],
  ["gzip", "gzip", "for slow lines, and images that are not compressed"],
  ["none", "None", "for fast lines"],
];

/** A resource: `{ Level, ID, title }`. */
export function transferButton(resources, { small = false, label = "Transfers accelerator" } = {}) {
  const name = resources().length === 1 ? `${label}: ${resources()[0].title}` : label;
  return h("button", {
    type: "button", class: small ? "yellow small" : "yellow", "aria-label": name,
    onclick: (event) => {
      event.stopPropagation();
      sendDialog(resources());
    },
  }, label);
}

export function peerState(peer) {
  const good = peer.State !== "disabled";
  return h("span", { class: "badge", "data-state": good ? "Success" : "Failure" }, good ? "Reachable" : "Not reachable");
}

export const peerVersion = (peer) => {
  if (peer.State === "disabled") return "";
  return peer.TxtransfersVersion ? `txtransfers ${peer.TxtransfersVersion}` : `Orthanc ${peer.Version}, plugin ${peer.PluginVersion}`;
};

export const roundTrip = (peer) => (peer.State === "disabled" ? "" : milliseconds(peer.RoundTripMs));

function peerChoice(peer, isChosen) {
  const mode = peer.Mode === "pull" ? "pull: it is asked to fetch" : "push: it is sent there";
  return h("label", { class: "choice" },
    h("input", { type: "radio", name: "peer", value: peer.Name, checked: isChosen, required: true }),
    h("span", { class: "choice-text" }, h("strong", {}, peer.Name), " ", peerState(peer),
      h("span", { class: "sub" }, [roundTrip(peer), mode, peerVersion(peer)].filter(Boolean).join(" · ")),
      peer.State === "disabled" && h("span", { class: "sub" }, peer.Reason)));
}

function describe(resources) {
  if (resources.length === 1) return resources[0].title;
  const levels = new Set(resources.map(({ Level }) => Level));
  const word = levels.size === 1 ? [...levels][0].toLowerCase() : "resource";
  const words = { study: "studies", series: "series" }[word];
  return `${plural(resources.length, word, words)}, the first: ${resources[0].title}`;
}

export function compressionField(id) {
  return h("select", { id, name: "compression" },
    COMPRESSIONS.map(([value, name, hint]) => h("option", { value }, `${name}: ${hint}`)));
}

function toastOfJob(told, peer) {
  if (told.ID) {
    toast([`Transfer with ${peer} began. `, h("a", { href: `#/transfer/${told.ID}` }, "Watch it")]);
  } else {
    toast(`${peer} was asked to pull. The transfer is listed there, as ${told.RemoteJob.slice(0, 8)}…`);
  }
}

export async function sendDialog(resources) {
  let all = null;
  await dialog("Send to a peer", (close) => {
    const choices = h("div", { class: "choices" }, h("p", { class: "sub" }, "Asking the peers…"));
    const problem = h("p", { class: "error", role: "alert", hidden: true });
    const submit = h("button", { type: "submit", class: "yellow", disabled: true }, "Send");
    const form = h("form", {},
      h("p", { class: "what" }, describe(resources)),
      h("fieldset", {}, h("legend", {}, "Peer"), choices),
      h("div", { class: "fields" },
        h("div", {}, h("label", { for: "compression" }, "Compression"), compressionField("compression")),
        h("div", {}, h("label", { for: "send-priority" }, "Priority"),
          h("input", { type: "number", id: "send-priority", name: "priority", value: 0, step: 1, class: "short" }))),
      problem,
      h("div", { class: "dialog-end" }, h("button", { type: "button", onclick: close }, "Cancel"), submit));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const values = new FormData(form);
      submit.disabled = true;
      problem.hidden = true;
      try {
        const told = await send({
          Resources: resources.map(({ Level, ID }) => ({ Level, ID })),
          Peer: values.get("peer"),
          Compression: values.get("compression"),
          Priority: Number(values.get("priority")),
        });
        close();
        toastOfJob(told, values.get("peer"));
      } catch (error) {
        put(problem, error.message);
        problem.hidden = false;
        submit.disabled = false;
      }
    });
    peersApi.all().then((found) => {
      all = Object.values(found);
      all.sort((a, b) => Number(a.State === "disabled") - Number(b.State === "disabled") || a.Name.localeCompare(b.Name));
      if (!all.length) {
        put(choices, h("p", { class: "empty" }, "No peers are configured: name them in OrthancPeers."));
        return;
      }
      put(choices, all.map((peer, n) => peerChoice(peer, n === 0 && peer.State !== "disabled")));
      submit.disabled = false;
      choices.querySelector("input:checked, input")?.focus();
    }, (error) => put(choices, h("p", { class: "error" }, error.message)));
    return form;
  });
}

export async function receive(peer, resources, compression, title) {
  const told = await pull({
    Resources: resources.map(({ Level, ID }) => ({ Level, ID })),
    Peer: peer,
    Compression: compression,
    Description: title,
  });
  toastOfJob(told, peer);
}
