// SPDX-License-Identifier: Apache-2.0
// Runs before the page is drawn, so that no light page flashes up in a dark room. No module: those
// wait for the page.
"use strict";

(() => {
  const KEY = "appliance.theme";
  const THEMES = ["light", "dark"];
  const wanted = new URLSearchParams(location.search).get("theme");

  function kept() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // cookies are blocked, as in some frames
    }
  }

  function apply(theme) {
    if (THEMES.includes(theme)) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    document.dispatchEvent(new Event("themechange"));
  }

  function current() {
    const { theme } = document.documentElement.dataset;
    return THEMES.includes(theme) ? theme : "auto";
  }

  function keep(theme) {
    try {
      if (THEMES.includes(theme)) localStorage.setItem(KEY, theme);
      else localStorage.removeItem(KEY);
    } catch {
      // it holds until the page is left
    }
    apply(theme);
  }

  apply(wanted ?? kept());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (current() === "auto") document.dispatchEvent(new Event("themechange"));
  });
  globalThis.theme = { current, keep };
})();
