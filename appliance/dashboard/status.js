// SPDX-License-Identifier: Apache-2.0
// What the instance is doing, in a sentence and in figures.

import { ApiError, Unreachable, call, connection, send } from "./api.js";
import { admit, refuse } from "./auth.js";
import { byId, copies, make, setIcon, show, write } from "./dom.js";
import { bytes, clock, count, span } from "./format.js";
import { every } from "./poll.js";

const SECONDS = 2;

let last = null; // the last answer of /api/status
let lastAt = 0; // when it came, by a clock that nobody sets
let lostAt = null;
let reason = "";
let poll;
const readers = [];

/** Have a function called with each new status. */
export function onStatus(reader) {
  readers.push(reader);
  if (last) reader(last);
}

/** Ask now, rather than when it is time. */
export const refresh = () => poll.now();

async function update() {
  try {
    last = await call("api/status");
  } catch (error) {
    if (error instanceof Unreachable) {
      lostAt ??= new Date();
    } else if (error instanceof ApiError && error.status !== 401) {
      refuse(error.message);
    }
    draw();
    throw error;
  }
  admit();
  lostAt = null;
  lastAt = performance.now();
  reason = last.instance.health === "failed" ? await whyRed() : "";
  draw();
  for (const reader of readers) reader(last);
}

/** What `/health` says, which anybody may ask. */
async function whyRed() {
  const health = await (await send("health")).response.json();
  if (health.reason) return health.reason;
  const failed = health.models.filter((model) => model.state === "failed");
  return failed.map((model) => `${model.name}: ${model.reason}`).join("; ") || "It says no reason.";
}

const ticking = () => (performance.now() - lastAt) / 1000;

function stateOf() {
  if (lostAt) return "stopped";
  if (!last) return "connecting";
  return last.instance.state;
}

function sentence(state) {
  if (state === "connecting") return "Connecting";
  if (state === "stopped") return `No answer since ${clock(lostAt)}`;
  if (state === "stopping") return "Stopping";
  if (last.instance.health === "failed") return "Not working";
  const at = last.models.reduce((sum, model) => sum + model.requests_in_progress, 0);
  const loading = last.models.filter((model) => model.state === "loading").length;
  if (state === "loading") return `Loading ${loading === 1 ? "a model" : `${loading} models`}`;
  if (state === "active") return `Working on ${at === 1 ? "a request" : `${count(at)} requests`}`;
  return `Idle for ${span(last.instance.idle_seconds + ticking())}`;
}

function explanation(state) {
  if (state === "stopped") {
    const left = Math.max(0, Math.ceil((poll.nextAt() - Date.now()) / 1000));
    return `The server is stopped, or cannot be reached from here. ${
      left ? `Trying again in ${left} s.` : "Trying again."
    }`;
  }
  if (state === "stopping") return "What was accepted is being finished.";
  return reason;
}

function draw() {
  const state = stateOf();
  const isRed = last?.instance.health === "failed" && state !== "stopped" && state !== "stopping";
  const shown = isRed ? "failed" : state;
  const mark = byId("state");
  mark.dataset.state = shown;
  setIcon(mark.querySelector("svg"), shown === "connecting" ? "loading" : shown);
  write(byId("state-word"), isRed ? `${state}, not healthy` : state);
  byId("headline").dataset.state = shown;
  document.body.dataset.state = shown;
  byId("main").setAttribute("aria-busy", state === "connecting");
  tick();
  if (last) drawFigures();
}

/** What changes by itself from second to second. */
function tick() {
  if (!poll) return;
  const state = stateOf();
  write(byId("headline"), sentence(state));
  write(byId("reason"), explanation(state));
  if (!last) return;
  const { instance } = last;
  const isLost = state === "stopped";
  const isIdle = state === "idle" || state === "loading";
  const idle = isLost ? "–" : span(instance.idle_seconds + (isIdle ? ticking() : 0));
  write(byId("figure-idle"), idle);
  write(byId("bar-idle"), state === "idle" ? idle : "");
  write(byId("figure-uptime"), isLost ? "–" : span(instance.uptime_seconds + ticking()));
}

function drawFigures() {
  const { instance, models, resources } = last;
  write(byId("bar-name"), instance.name);
  write(byId("bar-project"), instance.project ?? "");
  document.title = `${instance.name}: ${stateOf()}`;
  const sum = (field) => models.reduce((total, model) => total + model[field], 0);
  write(byId("figure-requests"), count(sum("requests_answered")));
  write(byId("figure-tokens"), count(sum("tokens")));
  write(byId("figure-waiting"), `${count(sum("queue_depth"))} (${count(sum("queue_tokens"))} tokens)`);
  write(byId("figure-memory"), bytes(resources.rss_bytes));
  write(byId("figure-version"), instance.version);
  write(byId("session"), instance.session_id);
  drawRooms(resources);
}

function drawRooms({ devices, host, disk_bytes: disk }) {
  const rooms = Object.entries(devices);
  if (host.capacity_bytes) rooms.push(["RAM", host]);
  if (disk) rooms.push(["disk", { used_bytes: disk, capacity_bytes: 0 }]);
  const list = byId("rooms");
  const names = rooms.map(([name]) => name).join();
  if (list.dataset.names !== names) {
    list.dataset.names = names;
    list.replaceChildren(
      ...rooms.map(([name]) =>
        make(
          "li",
          {},
          make("span", { class: "room-name" }, name),
          make("span", { class: "meter", "aria-hidden": "true" }, make("span")),
          make("span", { class: "number" }),
        ),
      ),
    );
    if (!rooms.length) list.append(make("li", {}, "none yet"));
  }
  rooms.forEach(([, { used_bytes: used, capacity_bytes: capacity }], index) => {
    const row = list.children[index];
    show(row.children[1], capacity > 0);
    row.children[1].firstChild.style.setProperty("--share", capacity ? used / capacity : 0);
    write(row.children[2], capacity ? `${bytes(used)} of ${bytes(capacity)}` : bytes(used));
  });
}

/** Begin. */
export function start() {
  copies(byId("copy-session"), () => byId("session").textContent);
  poll = every(SECONDS, update);
  setInterval(tick, 1000);
  connection.addEventListener("lost", () => {
    lostAt ??= new Date();
    draw();
    if (last) document.title = `${last.instance.name}: stopped`;
    poll.now();
  });
}
