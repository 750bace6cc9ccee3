// SPDX-License-Identifier: Apache-2.0
// Nodes are built, never parsed from text: names, log lines and errors are written by strangers.

const SVG = "http://www.w3.org/2000/svg";

/** Find the element of an id. */
export const byId = (id) => document.getElementById(id);

/**
 * Build an element.
 *
 * @param {string} tag its name
 * @param {object} attributes by name; `on` holds listeners, true and false set and leave out
 * @param {...(Node|string|number|null)} children text among them stays text
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  const { on = {}, ...plain } = attributes;
  for (const [name, value] of Object.entries(plain)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.filter((child) => child != null));
  return element;
}

/** One of the shapes that the page defines; it says nothing that text beside it does not. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Change an icon for another. */
export function setIcon(svg, name) {
  const use = svg.querySelector("use");
  if (use.getAttribute("href") !== `#icon-${name}`) use.setAttribute("href", `#icon-${name}`);
}

/** Write a text, unless it stands there: screen readers and selections are left in peace. */
export function write(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/** Show or hide an element. */
export function show(element, isShown) {
  element.hidden = !isShown;
}

/** Tell a result where it is seen, and have it read out. */
export function tell(element, text, kind = "note") {
  write(element, text);
  element.dataset.kind = kind;
}

/** Have a text on the clipboard. */
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // Browsers keep the clipboard from pages that came by plain HTTP from another machine.
  const area = make("textarea", { class: "off-screen", "aria-hidden": "true" });
  area.value = text;
  const open = document.querySelector("dialog[open]");
  (open ?? document.body).append(area);
  const before = document.activeElement;
  area.select();
  document.execCommand("copy");
  area.remove();
  before?.focus();
}

/** Have a button copy what a function gives; it says for a moment that it has. */
export function copies(button, text) {
  const label = button.querySelector(".label") ?? button;
  const before = label.textContent;
  let timer;
  button.addEventListener("click", async () => {
    await copy(text());
    label.textContent = "Copied";
    clearTimeout(timer);
    timer = setTimeout(() => {
      label.textContent = before;
    }, 1500);
  });
  return button;
}

/** Mark a button as at work, without taking the focus from it. */
export function setBusy(button, isBusy) {
  button.setAttribute("aria-disabled", isBusy);
  button.setAttribute("aria-busy", isBusy);
}

/** Whether a button may be pressed now. */
export const isEnabled = (button) => button.getAttribute("aria-disabled") !== "true";

/** Offer a text as a file. */
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Ask a question; gives what the dialog was closed with: "yes", or "" for no. */
export function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}
