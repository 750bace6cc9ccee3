// SPDX-License-Identifier: Apache-2.0
// The example generator: a request as code, and the request itself.

import { ApiError, call, publicRoot, root, send } from "./api.js";
import { byId, copies, isEnabled, make, setBusy, show, write } from "./dom.js";
import { count } from "./format.js";
import { bodyOf, curl, langchain, python } from "./snippets.js";
import { onStatus } from "./status.js";

const LANGUAGES = {
  "tab-curl": { write: curl, hint: "For bash, zsh and other POSIX shells." },
  "tab-python": { write: python, hint: "pip install openai" },
  "tab-langchain": { write: langchain, hint: "pip install langchain-openai" },
};
const FIRST_VALUES = 8;
const OWN = "own";

let base = new URL("v1", root).href;
let language = "tab-curl";
let names = "";

/** What the form asks for. */
function asked() {
  const prompt = byId("example-prompt").value;
  const [field, value] = prompt === OWN ? ["prompt", byId("example-words").value] : prompt.split(/=(.*)/s);
  return {
    model: byId("example-model").value,
    text: byId("example-text").value,
    prompt: field ? { [field]: value } : {},
  };
}

function draw() {
  show(byId("example-words-field"), byId("example-prompt").value === OWN);
  write(byId("example-code").firstElementChild, LANGUAGES[language].write(base, asked()));
  write(byId("example-hint"), LANGUAGES[language].hint);
}

function place({ instance }) {
  const now = new URL("v1", publicRoot(instance.route)).href;
  if (now === base) return;
  base = now;
  draw();
}

async function offerModels({ models }) {
  const now = JSON.stringify(models.map((model) => model.name));
  if (now === names) return;
  names = now;
  const select = byId("example-model");
  const chosen = select.value;
  select.replaceChildren(...models.map(({ name }) => make("option", { value: name, selected: name === chosen }, name)));
  await offerPrompts();
}

/** Those that every model may have, and those that are set for this one. */
async function offerPrompts() {
  const select = byId("example-prompt");
  const chosen = select.value;
  const option = (value, text) => make("option", { value, selected: value === chosen }, text);
  const model = byId("example-model").value;
  const { models } = await call("api/models").catch(() => ({ models: [] }));
  const known = models.find(({ name }) => name === model)?.settings.prompts ?? {};
  select.replaceChildren(
    option("", "as the model has it"),
    option("input_type=query", "the model’s for queries"),
    option("input_type=document", "the model’s for documents"),
    ...Object.entries(known).map(([name, words]) => option(`prompt_name=${name}`, `${name}: “${words}”`)),
    option(OWN, "own words…"),
  );
  draw();
}

function tellResult(...children) {
  byId("result").replaceChildren(...children);
}

function figure(name, value) {
  return make("div", {}, make("dt", {}, name), make("dd", { class: "number" }, value));
}

function tellAnswer(response, answer, milliseconds) {
  const vector = answer.data[0].embedding;
  const first = vector.slice(0, FIRST_VALUES).map((value) => value.toFixed(6)).join(", ");
  const served = Number(response.headers.get("openai-processing-ms"));
  tellResult(
    make(
      "dl",
      {},
      figure("Status", `${response.status} OK`),
      figure("Time", `${count(milliseconds)} ms`),
      figure("In the server", `${count(served)} ms`),
      figure("Tokens", count(answer.usage.total_tokens)),
      figure("Dimensions", count(vector.length)),
    ),
    make("p", { class: "vector" }, make("code", {}, `[${first}${vector.length > FIRST_VALUES ? ", …" : ""}]`)),
  );
}

async function run(button) {
  if (!isEnabled(button)) return;
  setBusy(button, true);
  tellResult(make("p", { class: "empty" }, "Waiting for the answer…"));
  const began = performance.now();
  try {
    const body = JSON.stringify({ ...bodyOf(asked()), encoding_format: "float" });
    const { response } = await send("v1/embeddings", { method: "POST", body, timeout: 0 });
    const answer = await response.json();
    if (!response.ok) throw new ApiError(response.status, answer.error);
    tellAnswer(response, answer, performance.now() - began);
  } catch (error) {
    const status = error instanceof ApiError ? `${error.status}: ` : "";
    tellResult(make("p", { class: "why" }, status + error.message));
  } finally {
    setBusy(button, false);
  }
}

function choose(tab) {
  language = tab.id;
  for (const id of Object.keys(LANGUAGES)) {
    byId(id).setAttribute("aria-selected", id === language);
    byId(id).tabIndex = id === language ? 0 : -1;
  }
  byId("example-code").setAttribute("aria-labelledby", language);
  draw();
}

function startTabs() {
  const tabs = Object.keys(LANGUAGES).map(byId);
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", ({ key }) => {
      if (!(key in steps)) return;
      const next = tabs.at((index + steps[key]) % tabs.length);
      next.focus();
      choose(next);
    });
  });
}

/** Begin. */
export function start() {
  startTabs();
  byId("example").addEventListener("submit", (event) => event.preventDefault());
  byId("example").addEventListener("input", draw);
  byId("example-model").addEventListener("change", offerPrompts);
  copies(byId("copy-example"), () => byId("example-code").textContent);
  byId("run").addEventListener("click", (event) => run(event.currentTarget));
  draw();
  onStatus(place);
  onStatus(offerModels);
}
