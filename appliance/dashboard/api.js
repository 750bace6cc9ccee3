// SPDX-License-Identifier: Apache-2.0
// The way to the server: where it is, what key goes along, and whether it answers.

/** The server's root, whatever path a gateway put before it. */
export const root = new URL("../../", import.meta.url);

/** The root as it is reached from outside, given the setting `route`; a path is one of this host. */
export const publicRoot = (route) => (route ? new URL(`${route.replace(/\/$/, "")}/`, root) : root);

const KEY = "appliance.token";
const TIMEOUT_MS = 20_000;

/** An answer that says no. */
export class ApiError extends Error {
  constructor(status, { message, param = null, code = null } = {}) {
    super(message || `The server answered ${status}.`);
    this.status = status;
    this.param = param;
    this.code = code;
  }
}

/** No answer at all. */
export class Unreachable extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

/** Tells of `lost` and `found`, and of `key` when another one is used. */
export const connection = new EventTarget();
connection.isThere = true;

let inMemory = "";
let promptForKey = async () => false;
let asking = null;
let declined = null; // the refusal that nobody wanted to give a key for

/** The key that was typed, if any. */
export function key() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return inMemory;
  }
}

/** Use another key; none if it is empty. */
export function setKey(value) {
  inMemory = value;
  declined = null;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // it holds until the page is left
  }
  connection.dispatchEvent(new Event("key"));
}

/** Say how a key is asked for: a function of the refusal that gives whether there is one now. */
export function onKeyWanted(prompt) {
  promptForKey = prompt;
}

function note(isThere) {
  if (connection.isThere === isThere) return;
  connection.isThere = isThere;
  connection.dispatchEvent(new Event(isThere ? "found" : "lost"));
}

/** Ask by HTTP; gives the response whatever its status. */
export async function send(path, { method = "GET", body, query, timeout = TIMEOUT_MS } = {}) {
  const url = new URL(path, root);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value != null && value !== "") url.searchParams.set(name, value);
  }
  const used = key();
  const headers = used ? { authorization: `Bearer ${used}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  try {
    const response = await fetch(url, {
      method,
      headers,
      body,
      cache: "no-store",
      credentials: "same-origin",
      signal: timeout ? AbortSignal.timeout(timeout) : undefined,
    });
    note(true);
    return { response, used };
  } catch {
    note(false);
    throw new Unreachable();
  }
}

async function refusal(response) {
  let told = {};
  try {
    const answer = await response.json();
    told = typeof answer.error === "object" ? answer.error : { message: answer.error };
  } catch {
    // a gateway's page, perhaps
  }
  return new ApiError(response.status, told);
}

/**
 * Ask a route; gives the JSON that it answers. Where a key is wanted, it is asked for.
 *
 * @throws {ApiError} the answer says no
 * @throws {Unreachable} there is none
 */
export async function call(path, { json, ...options } = {}) {
  const body = json === undefined ? options.body : JSON.stringify(json);
  for (;;) {
    if (declined) throw declined;
    const { response, used } = await send(path, { ...options, body });
    if (response.ok) return response.json();
    const error = await refusal(response);
    if (response.status !== 401) throw error;
    if (key() !== used) continue; // somebody gave another one meanwhile
    asking ??= promptForKey(error).finally(() => {
      asking = null;
    });
    if (await asking) continue;
    declined = error;
    throw error;
  }
}

/** A model's path; the slash of a hub name stays one. */
export const pathOf = (name) => name.split("/").map(encodeURIComponent).join("/");
