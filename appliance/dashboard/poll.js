// SPDX-License-Identifier: Apache-2.0
// Work that is done again and again, while there is somebody to see it.

import { Unreachable, connection } from "./api.js";

const LONGEST_MS = 30_000;

/**
 * Do something every so often: not while the page or the element is out of sight, never twice at
 * once, and less and less often while the server does not answer.
 *
 * @param {() => Promise<void>} task
 * @param {number} seconds between two beginnings
 * @param {Element} [element] that has to be in sight
 * @returns {{now: () => Promise<void>, nextAt: () => number}}
 */
export function every(seconds, task, element) {
  let timer;
  let isRunning = false;
  let isWantedAgain = false;
  let isInSight = !element;
  let failures = 0;
  let nextAt = 0;

  const isSeen = () => isInSight && document.visibilityState === "visible";

  function plan(milliseconds) {
    clearTimeout(timer);
    nextAt = Date.now() + milliseconds;
    timer = setTimeout(now, milliseconds);
  }

  async function now() {
    if (!isSeen()) return;
    if (isRunning) {
      isWantedAgain = true;
      return;
    }
    clearTimeout(timer);
    isRunning = true;
    const began = Date.now();
    try {
      await task();
      failures = 0;
    } catch (error) {
      if (!(error instanceof Unreachable)) console.debug(error);
      failures += error instanceof Unreachable ? 1 : 0;
    } finally {
      isRunning = false;
      const pause = Math.min(LONGEST_MS, seconds * 1000 * 2 ** failures);
      plan(isWantedAgain ? 0 : Math.max(100, pause - (failures ? 0 : Date.now() - began)));
      isWantedAgain = false;
    }
  }

  document.addEventListener("visibilitychange", () => now());
  connection.addEventListener("found", () => failures && plan(0));
  connection.addEventListener("key", () => plan(0));
  if (element) {
    new IntersectionObserver(
      (entries) => {
        const wasInSight = isInSight;
        isInSight = entries.at(-1).isIntersecting;
        if (isInSight && !wasInSight && Date.now() >= nextAt) now();
        else if (isInSight && !wasInSight) plan(nextAt - Date.now());
      },
      { rootMargin: "200px" },
    ).observe(element);
  } else {
    now();
  }
  return { now, nextAt: () => nextAt };
}
