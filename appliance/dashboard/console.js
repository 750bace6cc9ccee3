// SPDX-License-Identifier: Apache-2.0
// The log as it is written.

import { ApiError, call } from "./api.js";
import { byId, copy, make, write } from "./dom.js";
import { clock, count, dated } from "./format.js";
import { every } from "./poll.js";
import { onStatus } from "./status.js";

const SECONDS = 2;
const MOST_LINES = 1000;
const SEARCH_MS = 250;
const NEAR_END = 40; // pixels
const TRACE_CHARACTERS = 8;

let cursor = null;
let isPaused = false;
let generation = 0; // of what is looked for: answers to an older question are dropped
let poll;

const list = () => byId("log-lines");

function traceOf(id) {
  return make(
    "button",
    { type: "button", class: "quiet trace", title: `Trace ${id}; press to copy`, "aria-label": `Copy the trace id ${id}`, on: { click: () => copy(id) } },
    id.slice(0, TRACE_CHARACTERS),
  );
}

function lineOf(entry) {
  const date = new Date(entry.time * 1000);
  return make(
    "li",
    { title: entry.logger },
    make("time", { datetime: date.toISOString(), title: dated(date) }, clock(date)),
    make("span", { class: "level", "data-level": entry.level }, entry.level),
    make("span", { class: "message" }, entry.message, entry.trace_id ? traceOf(entry.trace_id) : null),
  );
}

function tellGap(missed) {
  return make("li", { class: "gap" }, `${count(missed)} lines went by unseen.`);
}

function append(entries, missed) {
  const lines = list();
  const wasAtEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < NEAR_END;
  lines.querySelector(".empty")?.remove();
  const fresh = entries.slice(-MOST_LINES).map(lineOf);
  if (missed) fresh.unshift(tellGap(missed));
  lines.append(...fresh);
  while (lines.childElementCount > MOST_LINES) lines.firstElementChild.remove();
  if (!lines.childElementCount) {
    const isFiltered = byId("log-search").value || byId("log-level").value !== "debug";
    lines.append(make("li", { class: "empty" }, isFiltered ? "No line fits." : "Nothing was written yet."));
  }
  if (byId("log-follow").checked && (wasAtEnd || cursor === null)) lines.scrollTop = lines.scrollHeight;
  const shown = lines.querySelectorAll("time").length;
  write(byId("log-count"), `${count(shown)} ${shown === 1 ? "line" : "lines"}`);
}

async function update() {
  if (isPaused) return;
  const asked = generation;
  const query = { cursor, level: byId("log-level").value, search: byId("log-search").value, limit: 500 };
  try {
    const answer = await call("api/logs", { query });
    if (asked !== generation || isPaused) return;
    if (cursor === null) list().replaceChildren();
    append(answer.entries, cursor === null ? 0 : answer.missed);
    cursor = answer.cursor;
  } catch (error) {
    if (error instanceof ApiError && cursor === null) {
      list().replaceChildren(make("li", { class: "empty" }, error.message));
    }
    throw error;
  }
}

/** Look for other lines, from the last ones that the server has. */
function lookAnew() {
  generation += 1;
  cursor = null;
  poll.now();
}

function pause(event) {
  isPaused = !isPaused;
  event.currentTarget.setAttribute("aria-pressed", isPaused);
  write(event.currentTarget, isPaused ? "Resume" : "Pause");
  if (!isPaused) poll.now();
}

/** Begin. */
export function start() {
  let timer;
  byId("log-level").addEventListener("change", lookAnew);
  byId("log-search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(lookAnew, SEARCH_MS);
  });
  byId("log-pause").addEventListener("click", pause);
  byId("log-clear").addEventListener("click", () => {
    list().replaceChildren();
    write(byId("log-count"), "0 lines");
  });
  byId("log-follow").addEventListener("change", ({ currentTarget }) => {
    if (currentTarget.checked) list().scrollTop = list().scrollHeight;
  });
  poll = every(SECONDS, update, byId("log"));
  let session = null;
  onStatus(({ instance }) => {
    if (session && instance.session_id !== session) lookAnew(); // which counts its lines anew
    session = instance.session_id;
  });
}
