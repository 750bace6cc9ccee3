// SPDX-License-Identifier: Apache-2.0
// Tokens: made, listed and revoked.

import { ApiError, call } from "./api.js";
import { ask, byId, copies, icon, isEnabled, make, setBusy, show, tell, write } from "./dom.js";
import { ago, count, dated } from "./format.js";
import { every } from "./poll.js";
import { configuration } from "./schema.js";
import { onStatus } from "./status.js";

const SECONDS = 15;
const ICONS = { active: "active", expired: "unloaded", revoked: "stopping" };

let poll;
let shown = "";

const notice = (text, kind) => tell(byId("tokens-notice"), text, kind);

function cell(label, ...children) {
  return make("td", { role: "cell", "data-label": label }, ...children);
}

function quotasOf(token) {
  const quotas = [];
  if (token.requests_per_minute) quotas.push(`${count(token.requests_per_minute)} requests`);
  if (token.tokens_per_minute) quotas.push(`${count(token.tokens_per_minute)} tokens`);
  return quotas.join(", ") || "none";
}

function makeRow(token) {
  const revoke = make("button", { type: "button", class: "remove", "aria-label": `Revoke ${token.name}`, on: { click: (event) => revokeToken(event.currentTarget, token) } }, "Revoke");
  const row = make(
    "tr",
    { role: "row", "data-token": token.id },
    make("td", { role: "rowheader" }, make("span", { class: "model-name" }, token.name), make("code", { class: "second" }, `${token.prefix}…`)),
    cell("State", make("span", { class: "state", "data-state": token.state }, icon(ICONS[token.state]), token.state)),
    cell("Scopes", token.scopes.join(", ")),
    cell("Models", token.models?.join(", ") ?? "all"),
    cell("Quotas a minute", quotasOf(token)),
    cell("Expires", token.expires_at ? dated(token.expires_at) : "never"),
    cell("Requests", count(token.requests)),
    cell("Last used", ago(token.last_used_at)),
    make("td", { role: "cell" }, make("div", { class: "row-actions" }, token.state === "active" ? revoke : "")),
  );
  for (const index of [6, 7]) row.children[index].classList.add("end");
  row.children[7].title = token.last_used_at ? dated(token.last_used_at) : "";
  return row;
}

function tellInTable(text) {
  byId("tokens-rows").replaceChildren(
    make("tr", { class: "placeholder", role: "row" }, make("td", { role: "cell", colspan: 9 }, text)),
  );
  shown = "";
}

/** Whether there is a place where tokens can be kept; asking for them would be an error else. */
async function isKept() {
  const { keeps, sources } = await configuration();
  return keeps || "database_url" in sources;
}

async function update() {
  if (!(await isKept().catch(() => true))) {
    tellInTable("No tokens can be kept: set data_dir, a folder, or database_url, a PostgreSQL database.");
    byId("open-token").setAttribute("aria-disabled", "true");
    return;
  }
  byId("open-token").removeAttribute("aria-disabled");
  let tokens;
  try {
    ({ tokens } = await call("api/tokens"));
  } catch (error) {
    if (error instanceof ApiError) tellInTable(error.message);
    throw error;
  }
  if (!tokens.length) tellInTable("There are no tokens yet.");
  else draw(tokens);
}

/** Draw the rows anew if anything has changed, the focus staying where it is. */
function draw(tokens) {
  const rank = { active: 0, expired: 1, revoked: 2 };
  const sorted = tokens.toSorted((one, other) => rank[one.state] - rank[other.state]);
  const rows = sorted.map(makeRow);
  const now = rows.map((row) => row.textContent).join("\n");
  if (now === shown) return;
  shown = now;
  const focused = document.activeElement?.closest("[data-token]")?.dataset.token;
  byId("tokens-rows").replaceChildren(...rows);
  rows.find((row) => row.dataset.token === focused)?.querySelector("button")?.focus();
}

async function revokeToken(button, token) {
  if (!isEnabled(button)) return;
  write(byId("confirm-title"), `Revoke ${token.name}?`);
  write(byId("confirm-text"), `Requests with ${token.prefix}… are refused from then on. A token cannot be brought back.`);
  byId("confirm-check").checked = false;
  show(byId("confirm-option"), false);
  write(byId("confirm-yes"), "Revoke");
  if ((await ask(byId("confirm"))) !== "yes") return;
  setBusy(button, true);
  try {
    await call(`api/tokens/${encodeURIComponent(token.id)}`, { method: "DELETE" });
    notice(`${token.name} was revoked.`, "done");
    byId("open-token").focus();
  } catch (error) {
    notice(error.message, "error");
  } finally {
    setBusy(button, false);
    await poll.now();
  }
}

/** What the form asks for, as the API wants it. */
function wanted({ elements }) {
  const chosen = (name) => [...document.querySelectorAll(`#token [name="${name}"]:checked`)].map(({ value }) => value);
  const token = { name: elements.name.value, scopes: chosen("scope") };
  if (chosen("model").length) token.models = chosen("model");
  if (elements.expires_at.value) token.expires_at = new Date(elements.expires_at.value).toISOString();
  for (const quota of ["requests_per_minute", "tokens_per_minute"]) {
    if (elements[quota].value) token[quota] = Number(elements[quota].value);
  }
  return token;
}

async function create(form) {
  const { secret, token } = await call("api/tokens", { method: "POST", json: wanted(form) });
  write(byId("secret-title"), `Copy the token “${token.name}” now`);
  write(byId("secret-value"), secret);
  show(byId("secret"), true);
}

function startForm() {
  const form = byId("token");
  const opener = byId("open-token");
  const close = () => {
    show(form, false);
    opener.setAttribute("aria-expanded", "false");
  };
  opener.setAttribute("aria-expanded", "false");
  opener.setAttribute("aria-controls", "token");
  opener.addEventListener("click", () => {
    if (!isEnabled(opener)) return;
    show(form, true);
    opener.setAttribute("aria-expanded", "true");
    form.elements.name.focus();
  });
  const cancel = () => {
    close();
    opener.focus();
  };
  byId("close-token").addEventListener("click", cancel);
  form.addEventListener("keydown", (event) => event.key === "Escape" && cancel());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector(".primary");
    if (!isEnabled(button)) return;
    for (const field of form.elements) field.removeAttribute("aria-invalid");
    tell(byId("token-notice"), "");
    setBusy(button, true);
    try {
      await create(form);
      form.reset();
      close();
      byId("secret").focus();
      poll.now();
    } catch (error) {
      tell(byId("token-notice"), error.message, "error");
      const field = form.elements[(error.param ?? "").split(/[.[]/)[0]];
      if (field instanceof HTMLElement) {
        field.setAttribute("aria-invalid", "true");
        field.focus();
      }
    } finally {
      setBusy(button, false);
    }
  });
}

function startSecret() {
  copies(byId("copy-secret"), () => byId("secret-value").textContent);
  byId("close-secret").addEventListener("click", () => {
    write(byId("secret-value"), "");
    show(byId("secret"), false);
    byId("open-token").focus();
  });
}

function offerModels({ models }) {
  const box = byId("token-models");
  const names = JSON.stringify(models.map(({ name }) => name));
  if (box.dataset.names === names) return;
  box.dataset.names = names;
  const chosen = new Set([...box.querySelectorAll(":checked")].map(({ value }) => value));
  box.replaceChildren(
    ...models.map(({ name }) =>
      make("label", {}, make("input", { type: "checkbox", name: "model", value: name, checked: chosen.has(name) }), name),
    ),
  );
}

/** Begin. */
export function start() {
  startForm();
  startSecret();
  onStatus(offerModels);
  poll = every(SECONDS, update, byId("tokens"));
}
