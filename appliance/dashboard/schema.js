// SPDX-License-Identifier: Apache-2.0
// The settings' schema, asked for once and again after a change; several parts of the page read it.

import { call, connection } from "./api.js";

let asked = null;

/** The answer of `/api/config/schema`. */
export function configuration() {
  asked ??= call("api/config/schema").catch((error) => {
    asked = null;
    throw error;
  });
  return asked;
}

/** Have it asked for anew, next time. */
export function forgetConfiguration() {
  asked = null;
}

/** The schema of one model's settings. */
export const modelSchema = (schema) => schema.$defs.ModelSettings;

connection.addEventListener("key", forgetConfiguration);
