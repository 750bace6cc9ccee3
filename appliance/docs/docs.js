// SPDX-License-Identifier: Apache-2.0
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  defaultModelExpandDepth: 3,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,  // nothing is asked of another host
});
