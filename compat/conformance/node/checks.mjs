// SPDX-License-Identifier: Apache-2.0
// The server under test, what cases send to it, and what they expect.

import assert from "node:assert/strict";

export const baseURL = process.env.CONFORMANCE_BASE_URL;
export const rootURL = process.env.CONFORMANCE_ROOT_URL;
export const apiKey = process.env.CONFORMANCE_API_KEY;
export const model = process.env.CONFORMANCE_MODEL;
const leastCosine = Number(process.env.CONFORMANCE_COSINE ?? "0.99999");

export const text = "The harbour lies quiet before the storm.";
export const textAsIds = [791, 75742, 15812, 11594, 1603, 279, 13766, 13];
const things = ["a violin", "seven barrels", "the old map", "wet gloves", "a telescope"];
export const numbered = (count) =>
  Array.from({ length: count }, (_, number) => `Item ${number}: ${things[number % 5]}.`);

/** Vectors by a bare request, for comparison. */
export async function raw(input, fields = {}) {
  const response = await fetch(`${baseURL}/embeddings`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${apiKey}` },
    body: JSON.stringify({ model, input, encoding_format: "float", ...fields }),
  });
  return (await response.json()).data.map((item) => item.embedding);
}

const dot = (one, other) => one.reduce((sum, number, at) => sum + number * other[at], 0);

export function assertSame(actual, wanted) {
  assert.equal(actual.length, wanted.length, "number of vectors");
  actual.forEach((vector, at) => {
    assert.equal(vector.length, wanted[at].length, `length of vector ${at}`);
    const norms = Math.sqrt(dot(vector, vector) * dot(wanted[at], wanted[at]));
    const cosine = dot(vector, wanted[at]) / norms;
    assert.ok(cosine >= leastCosine, `vector ${at} has cosine ${cosine} with the expected one`);
  });
}

export function assertUnitLength(vector) {
  assert.ok(Math.abs(Math.sqrt(dot(vector, vector)) - 1) < 1e-3, "the vector's length is not 1");
}

export async function thrown(kind, promise) {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof kind, `thrown is ${error.constructor.name}: ${error.message}`);
    return error;
  }
  throw new Error(`no ${kind.name} was thrown`);
}
