// SPDX-License-Identifier: Apache-2.0
// LangChain's embeddings by OpenAI's API.

import { OpenAIEmbeddings } from "@langchain/openai";

import { apiKey, assertSame, baseURL, model, numbered, raw, text } from "../checks.mjs";

const embeddings = (options = {}) =>
  new OpenAIEmbeddings({ model, apiKey, configuration: { baseURL }, maxRetries: 0, ...options });

export const cases = {
  async "embed-query"() {
    assertSame([await embeddings().embedQuery(text)], await raw(text));
  },
  async "embed-documents"() {
    const texts = numbered(120); // three requests
    assertSame(await embeddings({ batchSize: 50 }).embedDocuments(texts), await raw(texts));
  },
  async "dimensions"() {
    const dimensions = Math.floor((await raw(text))[0].length / 2);
    const vectors = await embeddings({ dimensions }).embedDocuments([text]);
    assertSame(vectors, await raw(text, { dimensions }));
  },
};
