// SPDX-License-Identifier: Apache-2.0
// Cases of OpenAI's library for JavaScript. Prints one line of JSON a case: {case, fault}.

import assert from "node:assert/strict";
import OpenAI, { BadRequestError, NotFoundError } from "openai";

const baseURL = process.env.CONFORMANCE_BASE_URL;
const apiKey = process.env.CONFORMANCE_API_KEY;
const model = process.env.CONFORMANCE_MODEL;
const leastCosine = Number(process.env.CONFORMANCE_COSINE ?? "0.99999");

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const text = "The harbour lies quiet before the storm.";
const textAsIds = [791, 75742, 15812, 11594, 1603, 279, 13766, 13];
const things = ["a violin", "seven barrels", "the old map", "wet gloves", "a telescope"];
const numbered = (count) =>
  Array.from({ length: count }, (_, number) => `Item ${number}: ${things[number % 5]}.`);

/** Vectors by a bare request, for comparison. */
async function raw(input) {
  const response = await fetch(`${baseURL}/embeddings`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${apiKey}` },
    body: JSON.stringify({ model, input, encoding_format: "float" }),
  });
  return (await response.json()).data.map((item) => item.embedding);
}

const dot = (one, other) => one.reduce((sum, number, at) => sum + number * other[at], 0);

function assertSame(actual, wanted) {
  assert.equal(actual.length, wanted.length, "number of vectors");
  actual.forEach((vector, at) => {
    assert.equal(vector.length, wanted[at].length, `length of vector ${at}`);
    const norms = Math.sqrt(dot(vector, vector) * dot(wanted[at], wanted[at]));
    const cosine = dot(vector, wanted[at]) / norms;
    assert.ok(cosine >= leastCosine, `vector ${at} has cosine ${cosine} with the expected one`);
  });
}

const vectorsOf = (answer) => {
  answer.data.forEach((item, at) => assert.equal(item.index, at, "index"));
  return answer.data.map((item) => item.embedding);
};

async function thrown(kind, promise) {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof kind, `thrown is ${error.constructor.name}: ${error.message}`);
    return error;
  }
  throw new Error(`no ${kind.name} was thrown`);
}

const cases = {
  async "default"() {
    const sent = [];
    const spying = client.withOptions({
      fetch: (url, options) => {
        sent.push(JSON.parse(options.body));
        return fetch(url, options);
      },
    });
    const answer = await spying.embeddings.create({ model, input: text });
    assert.equal(sent[0].encoding_format, "base64", "encoding_format that was sent");
    assertSame(vectorsOf(answer), await raw(text));
  },
  async "encoding-float"() {
    const answer = await client.embeddings.create({ model, input: text, encoding_format: "float" });
    assertSame(vectorsOf(answer), await raw(text));
  },
  async "list-of-texts"() {
    const texts = numbered(50);
    const answer = await client.embeddings.create({ model, input: texts });
    assertSame(vectorsOf(answer), await raw(texts));
    assert.ok(answer.usage.prompt_tokens >= texts.length, "usage counts too few tokens");
  },
  async "token-ids"() {
    const answer = await client.embeddings.create({ model, input: [textAsIds] });
    assertSame(vectorsOf(answer), await raw(text));
  },
  async "dimensions"() {
    const [whole] = await raw(text);
    const dimensions = Math.floor(whole.length / 2);
    const answer = await client.embeddings.create({ model, input: text, dimensions });
    const [vector] = vectorsOf(answer);
    assertSame([vector], [whole.slice(0, dimensions)]);
    assert.ok(Math.abs(Math.sqrt(dot(vector, vector)) - 1) < 1e-3, "the vector's length is not 1");
  },
  async "models-list"() {
    const names = [];
    for await (const listed of client.models.list()) names.push(listed.id);
    assert.ok(names.length > 0, "no model is listed");
  },
  async "models-retrieve"() {
    const [{ id }] = (await client.models.list()).data;
    assert.equal((await client.models.retrieve(id)).id, id, "id");
  },
  async "unknown-model"() {
    const input = text;
    const call = client.embeddings.create({ model: "no-such-model", input });
    const error = await thrown(NotFoundError, call);
    assert.equal(error.code, "model_not_found", "code");
    assert.ok(error.requestID, "the error has no request id");
  },
  async "dimensions-out-of-range"() {
    const dimensions = (await raw(text))[0].length + 1;
    const call = client.embeddings.create({ model, input: text, dimensions });
    assert.equal((await thrown(BadRequestError, call)).param, "dimensions", "param");
  },
  async "empty-text"() {
    await thrown(BadRequestError, client.embeddings.create({ model, input: "" }));
  },
  async "request-id"() {
    const call = client.embeddings.create({ model, input: text });
    const { response, request_id: id } = await call.withResponse();
    assert.ok(id, "the answer has no request id");
    assert.equal(id, response.headers.get("x-request-id"), "request id");
  },
  async "concurrent-calls"() {
    const texts = numbered(32);
    const calls = texts.map((input) => client.embeddings.create({ model, input }));
    const answers = await Promise.all(calls);
    assertSame(answers.map((answer) => answer.data[0].embedding), await raw(texts));
  },
};

for (const [name, run] of Object.entries(cases)) {
  let fault = "";
  try {
    await run();
  } catch (error) {
    fault = error.name === "AssertionError" ? error.message : `${error.name}: ${error.message}`;
  }
  console.log(JSON.stringify({ case: name, fault }));
}
