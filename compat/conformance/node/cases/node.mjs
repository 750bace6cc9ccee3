// SPDX-License-Identifier: Apache-2.0
// OpenAI's own library.

import assert from "node:assert/strict";
import OpenAI, { BadRequestError, NotFoundError } from "openai";

import {
  apiKey, assertSame, assertUnitLength, baseURL, model, numbered, raw, text, textAsIds, thrown,
} from "../checks.mjs";

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const vectorsOf = (answer) => {
  answer.data.forEach((item, at) => assert.equal(item.index, at, "index"));
  return answer.data.map((item) => item.embedding);
};

export const cases = {
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
    assertUnitLength(vector);
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
