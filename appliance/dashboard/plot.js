// SPDX-License-Identifier: Apache-2.0
// One plot by itself. `?window=3600` sets the seconds shown, `?theme=dark` the colours.

import { ApiError, Unreachable, call, onKeyWanted, setKey } from "./api.js";
import { Plot } from "./chart.js";
import { byId, show, tell } from "./dom.js";
import { every } from "./poll.js";

const SECONDS = 5;
const name = decodeURIComponent(location.pathname.split("/").at(-1));
const query = { names: name, window: new URLSearchParams(location.search).get("window") };
const plot = new Plot(name);

/** Ask for a key in the page itself: frames are too small for a dialog. */
function prompt() {
  const form = byId("key-form");
  show(form, true);
  show(plot.element, false);
  return new Promise((resolve) => {
    form.addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        setKey(byId("key-value").value.trim());
        byId("key-value").value = "";
        show(form, false);
        show(plot.element, true);
        resolve(true);
      },
      { once: true },
    );
  });
}

async function update() {
  try {
    const answer = await call("api/series", { query });
    tell(byId("notice"), "");
    for (const series of answer.series) {
      plot.update(answer, series);
      document.title = series.title;
    }
  } catch (error) {
    if (error instanceof ApiError || error instanceof Unreachable) tell(byId("notice"), error.message, "error");
    throw error;
  }
}

onKeyWanted(prompt);
byId("main").append(plot.element);
every(SECONDS, update);
