// SPDX-License-Identifier: Apache-2.0
// Configurations that come and go as files: export, import and clone.

import { call } from "./api.js";
import { differences } from "./diff.js";
import { byId, copies, download, isEnabled, make, setBusy, tell, write } from "./dom.js";
import { configuration } from "./schema.js";
import { shellQuoted } from "./snippets.js";

const OMITTED = "secrets_omitted";

const fileOf = (name) => `${name.replace(/[^\w.-]+/g, "-") || "appliance"}.json`;
const written = (config) => `${JSON.stringify(config, null, 2)}\n`;
const shown = (value) => (value == null ? "not set" : JSON.stringify(value));

function panel(...children) {
  const sheet = make("section", { class: "sheet", tabindex: "-1" }, ...children);
  byId("configuration-panel").replaceChildren(sheet);
  sheet.scrollIntoView({ block: "nearest" });
  return sheet;
}

function close(opener) {
  byId("configuration-panel").replaceChildren();
  opener.focus();
}

async function exportIt(notice) {
  const config = await call("api/config");
  download(fileOf(config.name), written(config));
  const omitted = config[OMITTED] ?? [];
  notice(omitted.length ? `Exported. The file leaves out, and names, secrets: ${omitted.join(", ")}.` : "Exported.", "done");
}

function diffTable(rows) {
  const cells = ([path, now, then]) =>
    make("tr", {}, make("td", {}, path), make("td", { class: "was" }, shown(now)), make("td", {}, shown(then)));
  return make(
    "table",
    { class: "diff" },
    make("caption", { class: "off-screen" }, "What the file changes"),
    make("thead", {}, make("tr", {}, ...["Setting", "Now", "In the file"].map((title) => make("th", { scope: "col" }, title)))),
    make("tbody", {}, ...rows.map(cells)),
  );
}

/** Show what a file would change, and save it if that is wanted. */
async function importIt(file, { keep, notice }) {
  const opener = byId("import");
  let config;
  try {
    config = JSON.parse(await file.text());
  } catch {
    notice(`${file.name} is not JSON.`, "error");
    return;
  }
  const [{ faults }, now, { schema }] = await Promise.all([
    call("api/config/check", { method: "POST", json: config }),
    call("api/config"),
    configuration(),
  ]);
  const rows = faults.length ? [] : differences(now, config, schema);
  const told = make("p", { class: "notice", role: "alert" });
  const save = make("button", { type: "button", class: "primary" }, "Save it");
  const cancel = make("button", { type: "button", class: "quiet", on: { click: () => close(opener) } }, "Cancel");
  save.addEventListener("click", async () => {
    if (!isEnabled(save)) return;
    setBusy(save, true);
    try {
      await keep(config);
      close(opener);
    } catch (error) {
      tell(told, error.message, "error");
      setBusy(save, false);
    }
  });
  const omitted = (!faults.length && config[OMITTED]) || [];
  const sheet = panel(
    make("h3", {}, `Import ${file.name}`),
    faults.length ? make("ul", { class: "hint" }, ...faults.map(({ param, message }) => make("li", {}, `${param ? `${param}: ` : ""}${message}`))) : null,
    faults.length ? null : rows.length ? diffTable(rows) : make("p", {}, "It says what is in force already."),
    omitted.length ? make("p", { class: "hint" }, `It leaves out secrets, which have to be given by the environment at the next start: ${omitted.join(", ")}.`) : null,
    told,
    make("p", { class: "actions" }, rows.length ? save : null, cancel),
  );
  if (faults.length) tell(told, "No server can start with this file, so that it is not saved.", "error");
  sheet.focus();
}

/** The command that starts a clone; secrets that the file leaves out are to be filled in. */
function startCommand(config, file) {
  const variable = (name) => `APPLIANCE_${name.toUpperCase()}`;
  const secrets = (config[OMITTED] ?? []).map((name) => {
    const [head, key] = name.split(/\.(.*)/s);
    return `${key ? `${variable(head)}__${key}` : variable(name)}=YOUR_VALUE`;
  });
  return [...secrets, `appliance serve --config ${/^[\w.-]+$/.test(file) ? file : shellQuoted(file)}`].join(" ");
}

function field(id, label, value, attributes = {}) {
  const input = make("input", { id, value, autocomplete: "off", spellcheck: "false", ...attributes });
  return { input, element: make("div", { class: "field" }, make("label", { for: id }, label), input) };
}

/** Offer a file like the export with another name, port and folder. */
async function clone() {
  const opener = byId("clone");
  const config = await call("api/config");
  const name = field("clone-name", "Name", `${config.name}-clone`);
  const port = field("clone-port", "Port", config.port + 1, { type: "number", min: 0, max: 65_535 });
  const folder = field("clone-folder", "data_dir", config.data_dir ? `${config.data_dir}-clone` : "", { placeholder: "none" });
  const project = field("clone-project", "Project", config.project ?? "", { placeholder: "none" });
  const queue = field("clone-queue", "Queue", config.queue ?? "", { placeholder: "none" });
  const route = field("clone-route", "Route", config.route ?? "", { placeholder: "none" });
  const command = make("code", { class: "command", id: "clone-command" });
  const told = make("p", { class: "notice", role: "alert" });

  function wanted() {
    const changed = { ...config, name: name.input.value, port: Number(port.input.value) };
    for (const [key, { input }] of [["data_dir", folder], ["project", project], ["queue", queue], ["route", route]]) {
      if (input.value) changed[key] = input.value;
      else delete changed[key];
    }
    return changed;
  }

  const draw = () => write(command, startCommand(config, fileOf(name.input.value)));
  const save = make("button", { type: "submit", class: "primary" }, "Download");
  const cancel = make("button", { type: "button", class: "quiet", on: { click: () => close(opener) } }, "Close");
  const form = make(
    "form",
    { novalidate: true },
    make("div", { class: "fields" }, name.element, port.element, project.element, folder.element, queue.element, route.element),
    told,
    make("p", { class: "actions" }, save, cancel),
  );
  form.addEventListener("input", draw);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { faults } = await call("api/config/check", { method: "POST", json: wanted() });
    const [first] = faults;
    tell(told, first ? `${first.param ? `${first.param}: ` : ""}${first.message}` : "", "error");
    if (!first) download(fileOf(name.input.value), written(wanted()));
  });
  draw();
  const copy = copies(make("button", { type: "button", class: "quiet small", "aria-label": "Copy the command" }, make("span", { class: "label" }, "Copy")), () => command.textContent);
  panel(
    make("h3", {}, "Clone this instance"),
    form,
    make("p", { class: "hint" }, "Start it, where the file is, with"),
    make("p", { class: "with-button" }, command, copy),
  );
  name.input.focus();
  name.input.select();
}

/** Begin; `keep` saves a configuration, `notice` tells of results. */
export function startTransfer({ keep, notice }) {
  const telling = (work) => async () => {
    try {
      await work();
    } catch (error) {
      notice(error.message, "error");
    }
  };
  const chosen = byId("import-file");
  byId("export").addEventListener("click", telling(() => exportIt(notice)));
  byId("import").addEventListener("click", () => chosen.click());
  byId("clone").addEventListener("click", telling(clone));
  chosen.addEventListener(
    "change",
    telling(async () => {
      const [file] = chosen.files;
      if (file) await importIt(file, { keep, notice });
      chosen.value = ""; // the same file may be chosen once more
    }),
  );
}
