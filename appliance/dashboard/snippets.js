// SPDX-License-Identifier: Apache-2.0
// Code that makes a request, right for any text: pure functions of what is asked.

export const TOKEN = "YOUR_TOKEN";

/** One word for a POSIX shell. */
export const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A string literal of Python: JSON's are, once no half of a surrogate pair stands alone. */
export const pythonQuoted = (text) => JSON.stringify(text.toWellFormed?.() ?? text);

/** A request's body. */
export function bodyOf({ model, text, prompt }) {
  return { model, input: text.toWellFormed?.() ?? text, ...prompt };
}

/** A command for a shell. */
export function curl(base, asked) {
  return [
    `curl ${shellQuoted(`${base}/embeddings`)}`,
    `  -H 'Authorization: Bearer ${TOKEN}'`,
    "  -H 'Content-Type: application/json'",
    `  -d ${shellQuoted(JSON.stringify(bodyOf(asked)))}`,
  ].join(" \\\n");
}

const pythonDictionary = (fields) =>
  `{${Object.entries(fields).map(([name, value]) => `${pythonQuoted(name)}: ${pythonQuoted(value)}`).join(", ")}}`;

/** A script with OpenAI's SDK. */
export function python(base, { model, text, prompt }) {
  const extra = Object.keys(prompt).length ? [`    extra_body=${pythonDictionary(prompt)},`] : [];
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${pythonQuoted(base)}, api_key=${pythonQuoted(TOKEN)})`,
    "answer = client.embeddings.create(",
    `    model=${pythonQuoted(model)},`,
    `    input=${pythonQuoted(text)},`,
    ...extra,
    ")",
    "vector = answer.data[0].embedding",
    "print(len(vector), vector[:4])",
  ].join("\n");
}

/** A script with LangChain. */
export function langchain(base, { model, text, prompt }) {
  const extra = Object.keys(prompt).length
    ? [`    model_kwargs={"extra_body": ${pythonDictionary(prompt)}},`]
    : [];
  return [
    "from langchain_openai import OpenAIEmbeddings",
    "",
    "embeddings = OpenAIEmbeddings(",
    `    model=${pythonQuoted(model)},`,
    `    base_url=${pythonQuoted(base)},`,
    `    api_key=${pythonQuoted(TOKEN)},`,
    "    check_embedding_ctx_length=False,  # send text, not token ids",
    ...extra,
    ")",
    `vector = embeddings.embed_query(${pythonQuoted(text)})`,
    "print(len(vector), vector[:4])",
  ].join("\n");
}
