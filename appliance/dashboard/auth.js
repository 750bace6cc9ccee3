// SPDX-License-Identifier: Apache-2.0
// The prompt for a key, where the server asks for one.

import { connection, key, onKeyWanted, setKey } from "./api.js";
import { ask, byId, show, write } from "./dom.js";

/** Ask for a key; gives whether there is one now. */
async function prompt(refusal) {
  const dialog = byId("key-dialog");
  const field = byId("key-value");
  write(byId("key-why"), key() ? `The one you gave is not good here. ${refusal.message}` : "");
  field.value = "";
  const answer = await ask(dialog);
  const given = field.value.trim();
  field.value = "";
  if (answer !== "yes" || !given) {
    refuse("The server wants a token, and none was given.");
    return false;
  }
  show(byId("refused"), false);
  setKey(given);
  return true;
}

/** Say that nothing can be shown, and why. */
export function refuse(why) {
  write(byId("refused-text"), why);
  show(byId("refused"), true);
}

/** Say no more that nothing can be shown. */
export function admit() {
  show(byId("refused"), false);
}

/** Begin. */
export function start() {
  const forget = byId("forget");
  const update = () => show(forget, Boolean(key()));
  onKeyWanted(prompt);
  forget.addEventListener("click", () => {
    setKey("");
    byId("enter-token").focus();
  });
  byId("enter-token").addEventListener("click", () => prompt({ message: "" }));
  connection.addEventListener("key", update);
  update();
}
