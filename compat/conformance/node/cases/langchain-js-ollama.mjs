// SPDX-License-Identifier: Apache-2.0
// LangChain's embeddings by Ollama's API.

import { OllamaEmbeddings } from "@langchain/ollama";

import { apiKey, assertSame, model, numbered, raw, rootURL, text } from "../checks.mjs";

const embeddings = new OllamaEmbeddings({
  model,
  baseUrl: rootURL,
  headers: new Headers({ authorization: `Bearer ${apiKey}` }),
  maxRetries: 0,
});

export const cases = {
  async "embed-query"() {
    assertSame([await embeddings.embedQuery(text)], await raw(text));
  },
  async "embed-documents"() {
    const texts = numbered(25);
    assertSame(await embeddings.embedDocuments(texts), await raw(texts));
  },
};
