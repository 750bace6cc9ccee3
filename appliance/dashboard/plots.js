// SPDX-License-Identifier: Apache-2.0
// The plots of the dashboard.

import { ApiError, call, root } from "./api.js";
import { Plot } from "./chart.js";
import { byId, tell } from "./dom.js";
import { every } from "./poll.js";

const SECONDS = 5;

// They have their places before there is data, so that nothing moves when it comes.
const TITLES = {
  requests: "Requests",
  tokens: "Tokens",
  latency: "Latency",
  queue: "Queue",
  cpu: "CPU",
  memory: "Memory",
  network: "Network",
  disk: "Disk",
  "gpu-utilization": "GPU utilization",
  "gpu-memory": "GPU memory",
  "gpu-temperature": "GPU temperature",
};

const plots = new Map();

const chosenWindow = () => Number(document.querySelector('[name="window"]:checked').value);

function plotOf(name, title) {
  if (!plots.has(name)) {
    const plot = new Plot(title, new URL(`dashboard/plot/${encodeURIComponent(name)}`, root).href);
    plot.element.id = `plot-${name}`;
    plots.set(name, plot);
    byId("plots-grid").append(plot.element);
  }
  return plots.get(name);
}

async function update() {
  try {
    const wanted = chosenWindow();
    const answer = await call("api/series", { query: { window: wanted } });
    if (wanted !== chosenWindow()) return;
    tell(byId("plots-notice"), "");
    for (const series of answer.series) plotOf(series.name, series.title).update(answer, series);
  } catch (error) {
    if (error instanceof ApiError) tell(byId("plots-notice"), error.message, "error");
    throw error;
  }
}

/** Begin. */
export function start() {
  for (const [name, title] of Object.entries(TITLES)) plotOf(name, title);
  const poll = every(SECONDS, update, byId("plots"));
  byId("window").addEventListener("change", () => poll.now());
}
