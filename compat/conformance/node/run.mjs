// SPDX-License-Identifier: Apache-2.0
// node run.mjs NAME: runs the cases of cases/NAME.mjs. Prints one line of JSON a case: {case, fault}.

const { cases } = await import(`./cases/${process.argv[2]}.mjs`);

for (const [name, run] of Object.entries(cases)) {
  let fault = "";
  try {
    await run();
  } catch (error) {
    fault = error.name === "AssertionError" ? error.message : `${error.name}: ${error.message}`;
  }
  console.log(JSON.stringify({ case: name, fault }));
}
