// SPDX-License-Identifier: Apache-2.0
// The configuration form: made from the settings' schema, checked while it is filled in.

import { ApiError, call, connection } from "./api.js";
import { byId, icon, isEnabled, make, setBusy, show, tell, write } from "./dom.js";
import { controlFor, settingRow } from "./fields.js";
import { modelsControl, plainModels } from "./models-field.js";
import { configuration, forgetConfiguration } from "./schema.js";
import { onStatus, refresh } from "./status.js";
import { startTransfer } from "./transfer.js";

const CHECK_MS = 350;
const OTHER = "Other";
const HIDDEN = ["secrets_omitted"];
const LOCKING = ["environment", "flags", "tei"];
const NOT_KEPT = [...LOCKING, "tei_defaults"];
const GROUPS = {
  Instance: ["name", "project", "queue", "route", "host", "port", "reuse_port", "data_dir", "environment", "debug"],
  Models: ["models", "any_model_name"],
  Access: ["auth", "api_keys", "database_url", "cors_allow_origins", "public_metrics", "tls_certificate", "tls_key"],
  "Where models come from": ["hf_token", "hub_cache", "token_vocabulary_dir"],
  "Memory and cores": ["automatic_cpu_offload", "disk_swap", "max_cuda_memory_gib", "cuda_memory_min_threshold_kib", "swap_dir", "turn_seconds", "cpu_workers"],
  "Idle instances": ["idle_time_limit_hours", "last_action_report_interval_seconds", "last_action_file"],
  "Time limits": ["model_wait_seconds", "request_timeout_seconds", "forward_timeout_seconds", "drain_timeout_seconds"],
  "Log and telemetry": ["log_level", "log_json", "otlp_endpoint", "te_metrics"],
};

let known = null; // the answer of /api/config/schema
const controls = new Map(); // by the setting's name
const edits = new Map(); // the setting's name to its value, or to undefined for the default
let checking;
let pending = null; // what waits for a restart, and of which session

const notice = (text, kind) => tell(byId("configuration-notice"), text, kind);
const isLocked = (name) => LOCKING.includes(known.sources[name]);

/** Where a value comes from, and by what name it is known there. */
function sourceOf(name) {
  const source = known.sources[name];
  if (source === "environment") return make("span", { class: "source" }, icon("locked"), `set by APPLIANCE_${name.toUpperCase()}`);
  if (source === "flags") return make("span", { class: "source" }, icon("locked"), `set by --${name.replaceAll("_", "-")}`);
  if (source === "tei") return make("span", { class: "source" }, icon("locked"), "set by a variable or flag of text-embeddings-inference");
  if (source === "tei_defaults") return make("span", { class: "source" }, "as in text-embeddings-inference");
  if (source === "file") return make("span", { class: "source" }, "from the file");
  if (source === "kept") return make("span", { class: "source" }, "saved here");
  return null;
}

function secretRow(name, property) {
  const isSet = name in known.sources;
  const words = make("p", { class: "hint" }, isSet ? "Set. Secrets are never shown." : `Not set. Give it by the variable APPLIANCE_${name.toUpperCase()}; it is not kept here.`);
  return settingRow(name, { property, control: { element: words }, source: sourceOf(name) });
}

function row(name, property) {
  if (known.secrets.includes(name)) return secretRow(name, property);
  const { schema, values } = known;
  const value = values[name] ?? undefined;
  const control = name === "models" ? modelsControl(schema, value) : controlFor(`setting-${name}`, name, property, schema.$defs, value);
  controls.set(name, control);
  const element = settingRow(name, { property, control, source: sourceOf(name) });
  if (name === "models") element.classList.add("of-models");
  if (isLocked(name)) control.lock();
  else element.addEventListener("input", () => edit(name, element));
  return element;
}

function groupsOf(properties) {
  const names = Object.keys(properties).filter((name) => !HIDDEN.includes(name));
  const placed = new Set(Object.values(GROUPS).flat());
  const groups = Object.entries(GROUPS).map(([title, members]) => [title, members.filter((name) => names.includes(name))]);
  groups.push([OTHER, names.filter((name) => !placed.has(name))]);
  return groups.filter(([, members]) => members.length);
}

function draw() {
  const { properties } = known.schema;
  const open = new Set([...document.querySelectorAll("#settings-groups > .group[open]")].map(({ dataset }) => dataset.title));
  controls.clear();
  edits.clear();
  byId("settings-groups").replaceChildren(
    ...groupsOf(properties).map(([title, names]) =>
      make(
        "details",
        { class: "group", "data-title": title, open: open.has(title) },
        make("summary", {}, title, make("span", { class: "hint" }, names.length > 1 ? names.join(", ") : "")),
        make("div", { class: "group-body" }, ...names.map((name) => row(name, properties[name]))),
      ),
    ),
  );
  write(byId("settings-keeps"), known.keeps ? "" : "Nothing can be saved here: the server was started without data_dir.");
  drawEdits();
  find();
}

/** Note what a setting says now, unless it is what it said before. */
function edit(name, element) {
  const now = controls.get(name).read();
  const before = name === "models" ? servedModels() : (known.values[name] ?? undefined);
  const fallback = known.schema.properties[name].default ?? undefined;
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const isEmpty = (value) => value === undefined || same(value, []) || same(value, {});
  if (same(now, before) || (isEmpty(now) && (isEmpty(before) || same(before, fallback)))) edits.delete(name);
  else edits.set(name, now);
  element.querySelector(".setting-name").toggleAttribute("data-edited", edits.has(name));
  drawEdits();
  clearTimeout(checking);
  checking = setTimeout(check, CHECK_MS);
}

function drawEdits() {
  show(byId("save-bar"), edits.size > 0);
  const names = [...edits.keys()].join(", ");
  write(byId("save-text"), edits.size ? `${edits.size === 1 ? "One change" : `${edits.size} changes`}: ${names}` : "");
  if (!known.keeps) byId("save").setAttribute("aria-disabled", "true");
}

const servedModels = () => plainModels(known.values.models, known.schema);

/** Whether the models are not those that an instance has of which nothing is set. */
function hasOwnModels() {
  const initial = plainModels(known.schema.properties.models.default, known.schema);
  return JSON.stringify(servedModels()) !== JSON.stringify(initial);
}

/** What would be kept: what the file has so far, with the edits. Flags and variables stay theirs. */
function wanted() {
  const config = {};
  for (const [name, source] of Object.entries(known.sources)) {
    if (!NOT_KEPT.includes(source) && !known.secrets.includes(name) && known.values[name] != null) config[name] = known.values[name];
  }
  // Those that were added by hand meanwhile are among them, and are not to be lost.
  if (!isLocked("models") && hasOwnModels()) config.models = servedModels();
  for (const [name, value] of edits) {
    if (value === undefined) delete config[name];
    else config[name] = value;
  }
  return config;
}

function mark(faults) {
  for (const place of document.querySelectorAll("#settings .fault")) write(place, "");
  for (const field of document.querySelectorAll("#settings [aria-invalid]")) field.removeAttribute("aria-invalid");
  const homeless = [];
  for (const { param, message } of faults) {
    if (param?.startsWith("models.")) controls.get("models").reveal?.(param);
    let path = param ?? "";
    let home = null;
    while (path && !home) {
      home = document.querySelector(`#settings [data-param="${CSS.escape(path)}"]`);
      path = path.includes(".") ? path.slice(0, path.lastIndexOf(".")) : "";
    }
    if (!home) {
      homeless.push(message);
      continue;
    }
    home.closest("#settings-groups > .group").open = true;
    write(home.querySelector(".fault"), message);
    home.querySelector("input, select, textarea")?.setAttribute("aria-invalid", "true");
  }
  notice(homeless.join(" "), "error");
}

/** Have the whole checked; gives whether it is good. */
async function check() {
  const asked = JSON.stringify(wanted());
  try {
    const { faults } = await call("api/config/check", { method: "POST", body: asked });
    if (asked === JSON.stringify(wanted())) mark(faults);
    return !faults.length;
  } catch (error) {
    notice(error.message, "error");
    return false;
  }
}

/** Keep a configuration; tells what became of it. */
async function keep(config) {
  const { applied, at_restart: later, overridden } = await call("api/config", { method: "PUT", json: config, timeout: 0 });
  const told = ["Saved."];
  if (applied.length) told.push(`In force now: ${applied.join(", ")}.`);
  if (later.length) told.push(`From the next start on: ${later.join(", ")}.`);
  const others = Object.entries(overridden).map(([name, source]) => `${name} (${source})`);
  if (others.length) told.push(`Overridden, and so without effect: ${others.join(", ")}.`);
  notice(told.join(" "), "done");
  pending = later.length ? { names: later } : null;
  forgetConfiguration();
  await load();
  await refresh();
}

async function save(event) {
  event.preventDefault();
  const button = byId("save");
  if (!edits.size || !isEnabled(button)) return;
  clearTimeout(checking);
  setBusy(button, true);
  try {
    if (await check()) await keep(wanted());
    else document.querySelector("#settings [aria-invalid]")?.focus();
  } catch (error) {
    if (error.param) mark([{ param: error.param, message: error.message }]);
    notice(error.message, "error");
  } finally {
    setBusy(button, false);
    if (!known.keeps) button.setAttribute("aria-disabled", "true");
  }
}

/** Show the settings that fit what is looked for. */
function find() {
  const words = byId("settings-search").value.trim().toLowerCase();
  for (const group of document.querySelectorAll("#settings-groups > .group")) {
    const rows = [...group.querySelectorAll(":scope > .group-body > .setting")];
    for (const one of rows) show(one, !words || one.textContent.toLowerCase().includes(words));
    const isFound = rows.some((one) => !one.hidden);
    show(group, isFound);
    if (words) group.open = isFound;
  }
}

async function load() {
  try {
    known = await configuration();
    draw();
  } catch (error) {
    const words = error instanceof ApiError ? error.message : "The server does not answer.";
    byId("settings-groups").replaceChildren(make("p", { class: "empty" }, words));
  }
}

/** Begin. */
export function start() {
  byId("settings").addEventListener("submit", save);
  byId("settings-search").addEventListener("input", find);
  byId("discard").addEventListener("click", () => {
    notice("");
    draw();
    byId("settings-search").focus();
  });
  startTransfer({ keep, notice });
  connection.addEventListener("key", load);
  connection.addEventListener("found", () => known ?? load());
  // Once: the first status says that the server answers, and that its key, if any, is good.
  let session = null;
  onStatus(({ instance }) => {
    if (instance.session_id === session) return;
    session = instance.session_id;
    if (pending) notice("The server was started anew, and what was saved is in force.", "done");
    pending = null;
    if (edits.size) return; // what is being typed is worth more than what has changed
    forgetConfiguration();
    load();
  });
}
