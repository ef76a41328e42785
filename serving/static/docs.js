// The API's documentation, drawn from its OpenAPI document: nothing is loaded from elsewhere.

import { element, get, prose } from "./common.js";

const main = document.getElementById("operations");

get("/openapi.json").then(show, (problem) =>
  main.append(element("p", { class: "problem" }, problem.detail)));

function show(api) {
  const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));
  main.append(
    element("h1", {}, "API"),
    element("p", { class: "lead" }, api.info.description),
    element("p", {}, ...prose("Where API keys are configured, send one with every request: `Authorization: Bearer <key>` or `X-API-Key: <key>`.")),
    ...operations.map((operation) => article(api, operation)),
    problems(api),
  );
  if (location.hash) document.querySelector(location.hash)?.scrollIntoView();
}

function article(api, { path, method, operation }) {
  const body = operation.requestBody?.content["application/json"]?.schema;
  const content = operation.responses["200"]?.content ?? {};
  const answer = Object.values(content)[0]?.schema;
  return element("article", { id: operation.operationId },
    element("h2", {}, element("span", { class: "method" }, method.toUpperCase()), path),
    ...(operation.description ?? "").split("\n\n").map((text) => element("p", {}, ...prose(text))),
    ...list("Parameters", (operation.parameters ?? []).map((p) => [p.name, p.description ?? ""])),
    ...block("Request", command(api, path, method, operation, body)),
    ...block("Answer", answer && example(api, answer)),
    ...list("Other answers", Object.entries(operation.responses)
      .filter(([status]) => status !== "200").map(([status, r]) => [status, r.description])));
}

const list = (title, rows) => rows.length
  ? [element("h3", {}, title), element("dl", {}, ...rows.flatMap(([name, text]) =>
      [element("dt", {}, name), element("dd", {}, ...prose(text))]))]
  : [];

const block = (title, text) => text
  ? [element("h3", {}, title), element("pre", { tabindex: 0 }, text)]
  : [];

function command(api, path, method, operation, body) {
  const user = (operation.parameters ?? []).find((p) => p.in === "path");
  const address = location.origin + path.replace(/\{.*?\}/, user?.example ?? user?.schema.examples?.[0] ?? "7590-VHVEG");
  if (!body) return `curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${address}`;
  const shape = resolve(api, body);
  const data = Object.fromEntries(Object.entries(shape.properties)
    .filter(([, p]) => p.examples).map(([name, p]) => [name, p.examples[0]]));
  return `curl ${address} -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify(data)}'`;
}

const resolve = (api, schema) =>
  schema.$ref ? resolve(api, api.components.schemas[schema.$ref.split("/").pop()]) : schema;

/** A schema's own example, or its field names with their types. */
function example(api, schema) {
  const shape = resolve(api, schema);
  return JSON.stringify(shape.examples?.[0] ?? outline(api, shape), null, 2);
}

function outline(api, schema) {
  const shape = resolve(api, schema);
  if (shape.examples) return shape.examples[0];
  if (shape.const) return shape.const;
  if (shape.properties)
    return Object.fromEntries(Object.entries(shape.properties).map(([name, p]) => [name, outline(api, p)]));
  if (shape.items) return [outline(api, shape.items)];
  if (shape.additionalProperties && shape.additionalProperties !== true)
    return { "…": outline(api, shape.additionalProperties) };
  if (shape.anyOf) return shape.anyOf.map((s) => s.type ?? "object").join(" | ");
  return shape.type ?? "…";
}

function problems(api) {
  return element("article", { id: "problems" },
    element("h2", {}, "Problems"),
    element("p", {}, ...prose("Every answer other than success is `application/problem+json` (RFC 9457). Its `type` ends in one of these:")),
    element("dl", {}, ...Object.entries(api["x-problems"]).flatMap(([kind, text]) =>
      [element("dt", { id: `problem-${kind}` }, kind), element("dd", {}, ...prose(text))])),
    ...block("For example", JSON.stringify(api.components.schemas.ProblemDetails.examples[0], null, 2)));
}
