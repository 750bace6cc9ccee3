// SPDX-License-Identifier: Apache-2.0
// Inputs for settings, made from their JSON Schema.
//
// A control has an `element`, `labelled` (what its label names, if it is one input), `read()`, which
// gives the value or undefined where nothing is set, and `lock()`. Changes bubble up as `input`.

import { make } from "./dom.js";

const UNSET = "";

/** What a property may be, references followed and null set apart. */
export function shapeOf(property, definitions) {
  let schema = property;
  let isNullable = false;
  if (schema.anyOf) {
    const others = schema.anyOf.filter(({ type }) => type !== "null");
    isNullable = others.length < schema.anyOf.length;
    schema = others.length === 1 ? { ...schema, ...others[0], anyOf: undefined } : schema;
  }
  if (schema.$ref) schema = { ...definitions[schema.$ref.split("/").at(-1)], ...schema, $ref: undefined };
  return { schema, isNullable };
}

/** Text in which what stands between backticks is code. */
export function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part.replaceAll("\n", " ")));
}

/** A default as text. */
function told(value) {
  if (value == null || value === "" || (typeof value === "object" && !Object.keys(value).length)) return "not set";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function changed(element) {
  element.dispatchEvent(new Event("input", { bubbles: true }));
}

function choice(id, values, value, fallback) {
  const options = values.map((one) => make("option", { value: JSON.stringify(one), selected: one === value }, String(one)));
  const unset = make("option", { value: UNSET, selected: value == null }, "not set");
  const isOptional = fallback == null;
  const select = make("select", { id }, ...(isOptional ? [unset] : []), ...options);
  return {
    element: select,
    labelled: select,
    read: () => (select.value === UNSET ? undefined : JSON.parse(select.value)),
    lock: () => (select.disabled = true),
  };
}

function toggle(id, value) {
  const input = make("input", { type: "checkbox", id, checked: value === true });
  const word = make("span", { class: "hint", "aria-hidden": "true" }, value ? "on" : "off");
  input.addEventListener("input", () => (word.textContent = input.checked ? "on" : "off"));
  return {
    element: make("span", { class: "switch" }, input, word),
    labelled: input,
    read: () => input.checked,
    lock: () => (input.disabled = true),
  };
}

function number(id, schema, value) {
  const input = make("input", {
    type: "number",
    id,
    value,
    inputmode: schema.type === "integer" ? "numeric" : "decimal",
    step: schema.type === "integer" ? 1 : "any",
    min: schema.minimum,
    max: schema.maximum,
    placeholder: told(schema.default),
  });
  return {
    element: input,
    labelled: input,
    // What is no number is sent as it stands, for the server to say what is wrong with it.
    read: () => (input.validity.badInput ? "not a number" : input.value === "" ? undefined : Number(input.value)),
    lock: () => (input.disabled = true),
  };
}

function text(id, schema, value) {
  const input = make("input", { id, value, placeholder: told(schema.default), autocomplete: "off", spellcheck: "false" });
  return {
    element: input,
    labelled: input,
    read: () => (input.value === "" ? undefined : input.value),
    lock: () => (input.disabled = true),
  };
}

function list(id, value) {
  const items = value ?? [];
  const area = make("textarea", { id, rows: Math.min(5, Math.max(2, items.length)), placeholder: "one a line", spellcheck: "false" });
  area.value = items.join("\n");
  return {
    element: area,
    labelled: area,
    read: () => {
      const lines = area.value.split("\n").map((line) => line.trim()).filter(Boolean);
      return lines.length ? lines : undefined;
    },
    lock: () => (area.disabled = true),
  };
}

function map(id, name, value) {
  const box = make("div", { class: "pairs" });
  const add = make("button", { type: "button", class: "small" }, "Add a pair");
  const wrapper = make("div", { role: "group", "aria-label": name, id }, box, add);
  let isLocked = false;

  function addPair(key = "", content = "") {
    const keyInput = make("input", { value: key, "aria-label": `${name}, name`, placeholder: "name", spellcheck: "false", disabled: isLocked });
    const valueInput = make("input", { value: content, "aria-label": `${name}, value`, placeholder: "value", spellcheck: "false", disabled: isLocked });
    const remove = make("button", { type: "button", class: "quiet small", "aria-label": `${name}: remove this pair` }, "Remove");
    const pair = make("div", { class: "pair" }, keyInput, valueInput, isLocked ? null : remove);
    remove.addEventListener("click", () => {
      pair.remove();
      changed(wrapper);
      add.focus();
    });
    box.append(pair);
    return keyInput;
  }

  add.addEventListener("click", () => addPair().focus());
  const fill = () => {
    box.replaceChildren();
    for (const [key, content] of Object.entries(value ?? {})) addPair(key, content);
  };
  fill();
  return {
    element: wrapper,
    read: () => {
      const pairs = [...box.children].map((pair) => [...pair.querySelectorAll("input")].map((input) => input.value));
      const named = pairs.filter(([key]) => key);
      return named.length ? Object.fromEntries(named) : undefined;
    },
    lock: () => {
      isLocked = true;
      add.hidden = true;
      fill();
    },
  };
}

/** Whatever else there is, as JSON. */
function raw(id, value) {
  const area = make("textarea", { id, rows: 3, spellcheck: "false", placeholder: "JSON" });
  area.value = value === undefined ? "" : JSON.stringify(value, null, 2);
  return {
    element: area,
    labelled: area,
    read: () => {
      if (!area.value.trim()) return undefined;
      try {
        return JSON.parse(area.value);
      } catch {
        return area.value;
      }
    },
    lock: () => (area.disabled = true),
  };
}

/** The control for a property. */
export function controlFor(id, name, property, definitions, value) {
  const { schema } = shapeOf(property, definitions);
  if (schema.enum) return choice(id, schema.enum, value ?? schema.default, schema.default);
  if (schema.type === "boolean" && schema.default == null) return choice(id, [true, false], value, null);
  if (schema.type === "boolean") return toggle(id, value ?? schema.default);
  if (schema.type === "integer" || schema.type === "number") return number(id, schema, value);
  if (schema.type === "string") return text(id, schema, value);
  if (schema.type === "array" && schema.items?.type === "string") return list(id, value);
  if (schema.type === "object" && schema.additionalProperties?.type === "string") return map(id, name, value);
  return raw(id, value);
}

/**
 * A setting with its name, what it means, its control and a place for what is wrong with it.
 *
 * @param {string} path such as `models.0.dtype`, by which faults find it
 * @param {{property: object, control: object, source?: Node, required?: boolean}} parts
 */
export function settingRow(path, { property, control, source }) {
  const name = path.split(".").at(-1);
  const id = `setting-${path}`;
  const label = control.labelled ? make("label", { for: id }, name) : make("span", { class: "label" }, name);
  const fault = make("p", { class: "fault", id: `${id}-fault` });
  const meaning = make("p", { class: "hint", id: `${id}-hint` }, ...prose(property.description ?? ""));
  (control.labelled ?? control.element).setAttribute("aria-describedby", `${id}-hint ${id}-fault`);
  return make(
    "div",
    { class: "setting", "data-param": path },
    make("div", {}, make("div", { class: "setting-name" }, label, source), meaning),
    make("div", {}, control.element, fault),
  );
}
