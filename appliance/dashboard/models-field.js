// SPDX-License-Identifier: Apache-2.0
// The list of models within the configuration: a card for each, with all of its settings.

import { make, write } from "./dom.js";
import { controlFor, settingRow } from "./fields.js";

/** Whether a value says no more than a default does. */
function isDefault(value, property) {
  return value == null || JSON.stringify(value) === JSON.stringify(property?.default);
}

/** Models with what differs from the defaults, and with their names. */
export function plainModels(models, schema) {
  const { properties } = schema.$defs.ModelSettings;
  const plain = (model) => Object.entries(model).filter(([name, value]) => !isDefault(value, properties[name]));
  return models.map((model) => Object.fromEntries(plain(model).sort(([one], [other]) => one.localeCompare(other))));
}

/** The control for the setting `models`. */
export function modelsControl(schema, value) {
  const { properties } = schema.$defs.ModelSettings;
  const cards = make("div", {});
  const add = make("button", { type: "button", class: "small" }, "Add a model");
  const element = make("div", { role: "group", "aria-label": "models" }, cards, add);
  let models = (value ?? []).map((model) => ({ given: model }));
  let isLocked = false;

  function changed() {
    element.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** What a card says; settings of it that were not touched stay as they were given. */
  function read({ given, controls }) {
    const wanted = { ...given };
    for (const [name, control] of Object.entries(controls ?? {})) {
      const now = control.read();
      if (isDefault(now, properties[name])) delete wanted[name];
      else wanted[name] = now;
    }
    return wanted;
  }

  const readAll = () => plainModels(models.map(read), schema);

  function card(model, index) {
    const title = make("span", {});
    const body = make("div", { class: "group-body" });
    const remove = make("button", { type: "button", class: "quiet small", on: { click: () => drop(index) } }, "Remove this model");
    const details = make("details", { class: "group", open: model.isOpen }, make("summary", {}, title), body);
    const name = () => write(title, read(model).name || read(model).model || "new model");
    // Thirty inputs a model: they are made when they are wanted, or when one has a fault.
    model.fill = () => {
      if (model.controls) return;
      model.controls = {};
      for (const [key, property] of Object.entries(properties)) {
        const path = `models.${index}.${key}`;
        const control = controlFor(`setting-${path}`, key, property, schema.$defs, model.given[key]);
        model.controls[key] = control;
        if (isLocked) control.lock();
        body.append(settingRow(path, { property, control }));
      }
      if (!isLocked) body.append(make("p", { class: "model-tools" }, remove));
    };
    details.addEventListener("toggle", () => {
      model.isOpen = details.open;
      if (details.open) model.fill();
    });
    body.addEventListener("input", name);
    if (model.isOpen) model.fill();
    name();
    return make("div", { class: "model-card", "data-param": `models.${index}` }, details, make("p", { class: "fault" }));
  }

  function draw() {
    // Numbers are part of the paths by which faults find their field, so that all are made anew.
    models = models.map((model) => ({ given: read(model), isOpen: model.isOpen }));
    cards.replaceChildren(...models.map(card));
  }

  function drop(index) {
    models.splice(index, 1);
    draw();
    changed();
    add.focus();
  }

  add.addEventListener("click", () => {
    models.push({ given: { model: "" }, isOpen: true });
    draw();
    changed();
    document.getElementById(`setting-models.${models.length - 1}.model`)?.focus();
  });
  draw();
  return {
    element,
    read: readAll,
    lock: () => {
      isLocked = true;
      add.hidden = true;
      draw();
    },
    /** Have the field of a path there, to be marked. */
    reveal: (path) => {
      const index = Number(path.split(".")[1]);
      models[index]?.fill();
      cards.children[index]?.querySelector("details").setAttribute("open", "");
    },
  };
}
