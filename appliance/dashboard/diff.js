// SPDX-License-Identifier: Apache-2.0
// What two configurations say differently: a pure function of the two and of their schema.

import { modelSchema } from "./schema.js";

const OMITTED = "secrets_omitted";

/** What is given, with the defaults written out. */
function filled(given, { properties }) {
  const defaults = Object.entries(properties).filter(([, { default: value }]) => value != null);
  return { ...Object.fromEntries(defaults.map(([name, { default: value }]) => [name, value])), ...given };
}

/** The name that a model is served under: its own, or what follows from where it comes from. */
function nameOf({ name, model }) {
  if (name) return name;
  const prefix = ["embedded:", "clearml://"].find((each) => model.startsWith(each));
  if (prefix) return model.slice(prefix.length);
  return /^[./~]/.test(model) ? model.split("/").filter(Boolean).at(-1) : model;
}

function modelsOf(config, schema) {
  const models = config.models.map((model) => (typeof model === "string" ? { model } : model));
  return new Map(models.map((model) => [nameOf(model), filled({ ...model, name: nameOf(model) }, modelSchema(schema))]));
}

/** Values by path; a list of plain values is one value. */
function flat(value, path = "", found = {}) {
  const isPlain = typeof value !== "object" || value === null;
  const isList = Array.isArray(value) && value.every((item) => typeof item !== "object");
  if (isPlain || isList) found[path] = value;
  else for (const [key, inner] of Object.entries(value)) flat(inner, path ? `${path}.${key}` : key, found);
  return found;
}

function between(now, then, path) {
  const [old, fresh] = [flat(now, path), flat(then, path)];
  return [...new Set([...Object.keys(old), ...Object.keys(fresh)])]
    .filter((one) => JSON.stringify(old[one]) !== JSON.stringify(fresh[one]))
    .map((one) => [one, old[one], fresh[one]]);
}

/**
 * List what differs.
 *
 * @returns {[string, unknown, unknown][]} path, value now, value then; undefined: it is not set
 */
export function differences(now, then, schema) {
  const plain = ({ models, [OMITTED]: secrets, ...others }) => others;
  const [whole, fresh] = [filled(now, schema), filled(then, schema)];
  const rows = between(plain(whole), plain(fresh), "");
  const [old, added] = [modelsOf(whole, schema), modelsOf(fresh, schema)];
  for (const name of new Set([...old.keys(), ...added.keys()])) {
    const path = `models.${name}`;
    if (old.has(name) && added.has(name)) rows.push(...between(old.get(name), added.get(name), path));
    else rows.push([path, old.get(name)?.model, added.get(name)?.model]);
  }
  const [first, next] = [old, added].map((models) => models.keys().next().value);
  if (first !== next) rows.push(["the default model", first, next]);
  return rows;
}
