// SPDX-License-Identifier: Apache-2.0
// Puts the page together.

import * as auth from "./auth.js";
import * as console from "./console.js";
import * as examples from "./examples.js";
import * as models from "./models.js";
import * as plots from "./plots.js";
import * as settings from "./settings.js";
import * as status from "./status.js";
import * as tokens from "./tokens.js";
import { byId, write } from "./dom.js";

const NEXT = { auto: "light", light: "dark", dark: "auto" };
const SHOWN = { auto: "Auto", light: "Light", dark: "Dark" };
const SAID = { auto: "Auto: colours as the system has them", light: "Light colours", dark: "Dark colours" };

function startTheme() {
  const button = byId("theme");
  const draw = () => {
    const theme = globalThis.theme.current();
    write(button, SHOWN[theme]);
    button.setAttribute("aria-label", SAID[theme]);
  };
  button.addEventListener("click", () => {
    globalThis.theme.keep(NEXT[globalThis.theme.current()]);
    draw();
  });
  draw();
}

/** Mark the section that is being read. */
function startNavigation() {
  const links = new Map([...document.querySelectorAll(".bar nav a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) links.get(target.id).setAttribute("aria-current", "true");
        else links.get(target.id).removeAttribute("aria-current");
      }
    },
    { rootMargin: "-30% 0px -69% 0px" },
  );
  for (const id of links.keys()) watch.observe(byId(id));
}

startTheme();
startNavigation();
auth.start();
for (const part of [status, models, plots, examples, tokens, console, settings]) part.start();
