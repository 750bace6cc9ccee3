// SPDX-License-Identifier: Apache-2.0
// The table of models, and the form that adds one.

import { call, pathOf, root } from "./api.js";
import { ask, byId, copies, icon, isEnabled, make, setBusy, setIcon, show, tell, write } from "./dom.js";
import { ago, bytes, count, dated } from "./format.js";
import { configuration, modelSchema } from "./schema.js";
import { onStatus, refresh } from "./status.js";

const ON_DEVICE = ["active", "idle"];
const ACTIONS = [
  { verb: "load", label: "Load", done: "is on its device", fits: (state) => !ON_DEVICE.includes(state) && state !== "loading" },
  { verb: "offload", label: "Offload", done: "is parked", fits: (state) => ON_DEVICE.includes(state) },
  { verb: "unload", label: "Unload", done: "is unloaded", fits: (state) => !["unloaded", "failed"].includes(state) },
];

const rows = new Map(); // by the model's name
const busy = new Set(); // names of models that something is done to

const notice = (text, kind) => tell(byId("models-notice"), text, kind);

/** Where a model is reached; without a route its path is one below the root, wherever that is. */
const endpointOf = ({ endpoint }, route) => new URL(route ? endpoint : endpoint.replace(/^\//, ""), root);

function cell(label, ...children) {
  return make("td", { role: "cell", "data-label": label }, ...children);
}

/** Build a row; gives the function that fills it. */
function makeRow(first) {
  const name = make("span", { class: "model-name" }, first.name);
  const aliases = make("span", { class: "second" });
  const endpoint = make("code");
  let url = root;
  const copyEndpoint = copies(
    make("button", { type: "button", class: "quiet small", "aria-label": `Copy the endpoint of ${first.name}` }, make("span", { class: "label" }, "Copy")),
    () => url.href,
  );
  const state = make("span", { class: "state" }, icon(first.state), make("span"));
  const why = make("span", { class: "second why" });
  const tier = make("span");
  const places = make("span", { class: "second" });
  const format = make("span");
  const formatMore = make("span", { class: "second" });
  const numbers = ["Queue", "Requests", "Tokens", "Last used"].map((label) => {
    const td = cell(label);
    td.classList.add("end");
    return td;
  });
  const queue = make("span");
  const queueTokens = make("span", { class: "second" });
  numbers[0].append(queue, queueTokens);
  const buttons = ACTIONS.map((action) =>
    make("button", { type: "button", "aria-label": `${action.label} ${first.name}`, on: { click: (event) => act(event.currentTarget, first.name, action) } }, action.label),
  );
  const remove = make("button", { type: "button", class: "remove", "aria-label": `Remove ${first.name}`, on: { click: (event) => removeModel(event.currentTarget, first.name) } }, "Remove");
  const element = make(
    "tr",
    { role: "row" },
    make("td", { role: "rowheader" }, name, aliases, make("span", { class: "endpoint" }, endpoint, copyEndpoint)),
    cell("State", state, why),
    cell("Weights", tier, places),
    cell("Format", format, formatMore),
    ...numbers,
    make("td", { role: "cell" }, make("div", { class: "row-actions", role: "group", "aria-label": first.name }, ...buttons, remove)),
  );

  function fill(model, route) {
    url = endpointOf(model, route);
    write(endpoint, url.origin === root.origin ? url.pathname : url.href);
    write(aliases, model.aliases.length ? `also ${model.aliases.join(", ")}` : "");
    state.dataset.state = model.state;
    setIcon(state.firstChild, model.state);
    write(state.lastChild, model.state);
    write(why, model.reason ?? "");
    write(tier, model.tier === "none" ? "not loaded" : tierName(model));
    write(places, placesOf(model).join(", "));
    write(format, model.dtype);
    write(formatMore, model.quantization === "none" ? "" : model.quantization);
    write(queue, count(model.queue_depth));
    write(queueTokens, model.queue_tokens ? `${count(model.queue_tokens)} tokens` : "");
    write(numbers[1], count(model.requests_answered));
    write(numbers[2], count(model.tokens));
    write(numbers[3], ago(model.last_used));
    numbers[3].title = model.last_used ? dated(model.last_used) : "";
    const isBusy = busy.has(model.name);
    buttons.forEach((button, index) => {
      if (button.getAttribute("aria-busy") === "true") return;
      button.setAttribute("aria-disabled", isBusy || !ACTIONS[index].fits(model.state));
    });
    if (remove.getAttribute("aria-busy") !== "true") remove.setAttribute("aria-disabled", isBusy);
  }
  return { element, fill };
}

function tierName({ tier, bytes: taken }) {
  const devices = Object.keys(taken.devices).filter((device) => taken.devices[device]);
  if (tier === "device") return `on ${devices.join(", ") || "its device"}`;
  return tier === "host" ? "in RAM" : "on disk";
}

function placesOf({ bytes: taken }) {
  const places = Object.entries(taken.devices).filter(([, size]) => size);
  const told = places.map(([device, size]) => (places.length > 1 ? `${device} ${bytes(size)}` : bytes(size)));
  if (taken.host) told.push(`RAM ${bytes(taken.host)}`);
  if (taken.disk) told.push(`disk ${bytes(taken.disk)}`);
  return told;
}

async function whileBusy(button, name, work) {
  if (!isEnabled(button)) return;
  busy.add(name);
  setBusy(button, true);
  notice("");
  try {
    await work();
  } catch (error) {
    notice(error.message, "error");
  } finally {
    busy.delete(name);
    setBusy(button, false);
    await refresh();
  }
}

const act = (button, name, { verb, done }) =>
  whileBusy(button, name, async () => {
    // However long that takes: weights may have to be downloaded.
    await call(`api/models/${pathOf(name)}/${verb}`, { method: "POST", timeout: 0 });
    notice(`${name} ${done}.`, "done");
  });

async function removeModel(button, name) {
  if (!isEnabled(button)) return;
  const keeps = await configuration().then(({ keeps: does }) => does, () => false);
  write(byId("confirm-title"), `Remove ${name}?`);
  write(byId("confirm-text"), "Requests that it has accepted are answered first. Its files stay where they are.");
  write(byId("confirm-check-text"), "After a restart, too");
  byId("confirm-check").checked = false;
  show(byId("confirm-option"), keeps);
  write(byId("confirm-yes"), "Remove");
  if ((await ask(byId("confirm"))) !== "yes") return;
  const query = { persist: keeps && byId("confirm-check").checked ? "true" : "" };
  await whileBusy(button, name, async () => {
    await call(`api/models/${pathOf(name)}`, { method: "DELETE", query, timeout: 0 });
    notice(`${name} is served no more.`, "done");
    byId("open-add").focus();
  });
}

function draw({ instance, models }) {
  const body = byId("models-rows");
  const names = new Set(models.map((model) => model.name));
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    row.element.remove();
    rows.delete(name);
  }
  body.querySelector(".placeholder")?.remove();
  for (const model of models) {
    if (!rows.has(model.name)) {
      rows.set(model.name, makeRow(model));
      body.append(rows.get(model.name).element);
    }
    rows.get(model.name).fill(model, instance.route);
  }
  if (!models.length) {
    body.append(make("tr", { class: "placeholder", role: "row" }, make("td", { role: "cell", colspan: 9 }, "No model is served. Add one.")));
  }
}

/** Let a form choose among what the schema allows. */
async function offerChoices(form) {
  const { schema, keeps } = await configuration();
  for (const name of ["dtype", "quantization"]) {
    const { enum: values, default: first } = modelSchema(schema).properties[name];
    form.elements[name].replaceChildren(...values.map((value) => make("option", { value, selected: value === first }, value)));
  }
  form.elements.persist.disabled = !keeps;
  form.elements.persist.closest("label").title = keeps ? "" : "Needs the setting data_dir";
}

async function add(form) {
  const { elements } = form;
  const wanted = { model: elements.model.value.trim() };
  for (const name of ["name", "revision"]) {
    if (elements[name].value.trim()) wanted[name] = elements[name].value.trim();
  }
  const aliases = elements.aliases.value.split(",").map((alias) => alias.trim()).filter(Boolean);
  if (aliases.length) wanted.aliases = aliases;
  for (const name of ["dtype", "quantization"]) if (elements[name].value) wanted[name] = elements[name].value;
  for (const name of ["eager", "pinned"]) wanted[name] = elements[name].checked;
  if (elements.persist.checked) wanted.persist = true;
  return call("api/models", { method: "POST", json: wanted });
}

function startForm() {
  const form = byId("add");
  const opener = byId("open-add");
  const close = () => {
    show(form, false);
    opener.setAttribute("aria-expanded", "false");
    opener.focus();
  };
  opener.setAttribute("aria-expanded", "false");
  opener.setAttribute("aria-controls", "add");
  opener.addEventListener("click", () => {
    show(form, true);
    opener.setAttribute("aria-expanded", "true");
    offerChoices(form).catch((error) => tell(byId("add-notice"), error.message, "error"));
    form.elements.model.focus();
  });
  byId("close-add").addEventListener("click", close);
  form.addEventListener("keydown", (event) => event.key === "Escape" && close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector(".primary");
    if (!isEnabled(button)) return;
    for (const field of form.elements) field.removeAttribute("aria-invalid");
    tell(byId("add-notice"), "");
    setBusy(button, true);
    try {
      const model = await add(form);
      form.reset();
      close();
      notice(`${model.name} was added${model.state === "loading" ? " and is loading" : ""}.`, "done");
    } catch (error) {
      tell(byId("add-notice"), error.message, "error");
      const field = form.elements[(error.param ?? "").split(".")[0]];
      field?.setAttribute("aria-invalid", "true");
      field?.focus();
    } finally {
      setBusy(button, false);
      refresh();
    }
  });
}

/** Begin. */
export function start() {
  startForm();
  onStatus(draw);
}
