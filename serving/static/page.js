// One user's features: values first; distributions and the past follow when they are there.

import { element, get, prose, useKey } from "./common.js";

const byId = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });
const compact = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, notation: "compact" });
const exponent = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, notation: "scientific" });
const short = { format: (n) => (Math.abs(n) < 1e15 ? compact : exponent).format(n) };
const percent = (share) =>
  share > 0 && share < 0.01 ? "under 1 %" : share > 0.99 && share < 1 ? "over 99 %" : `${Math.round(share * 100)} %`;
let catalogue;
let latest = 0; // number of the newest look-up: an older one that is slow must not overwrite it

start();

async function start() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    go(byId("user").value.trim(), byId("service").value);
  });
  byId("service").addEventListener("change", () => {
    if (byId("user").value.trim()) go(byId("user").value.trim(), byId("service").value);
  });
  byId("key").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(byId("key-value").value.trim());
    byId("key").hidden = true;
    say();
    load();
  });
  addEventListener("popstate", fromAddress);
  await load();
}

async function load() {
  try {
    catalogue = await get("/catalogue");
  } catch (problem) {
    return say(problem);
  }
  byId("service").replaceChildren(
    ...catalogue.services
      // The page is about users, and has no field for what a request brings.
      .filter((s) => Object.keys(s.keys).join() === "user_id" && !Object.keys(s.request).length)
      .map((s) => element("option", { value: s.name }, s.name)),
  );
  byId("service").value = catalogue.default_service;
  const [lineage] = catalogue.services.flatMap((s) => s.views.flatMap((v) => v.features));
  if (lineage) {
    byId("lineage").href = new URL("/", lineage.lineage).href;
    byId("lineage").hidden = false;
  }
  get("/examples").then(showExamples, () => {});
  fromAddress();
}

function showExamples({ user_ids }) {
  byId("examples").replaceChildren(
    "For example ",
    ...user_ids.flatMap((user) => [
      element("a", { href: address(user), onclick: (event) => {
        event.preventDefault();
        go(user, byId("service").value);
      } }, user),
      " ",
    ]),
  );
  byId("examples").hidden = !user_ids.length;
}

function address(user, service) {
  const query = new URLSearchParams({ user });
  if (service && service !== catalogue.default_service) query.set("service", service);
  return `/?${query}`;
}

function go(user, service) {
  history.pushState({}, "", address(user, service));
  fromAddress();
}

function fromAddress() {
  if (!catalogue) return;
  const query = new URLSearchParams(location.search);
  const service = query.get("service") ?? catalogue.default_service;
  byId("service").value = service;
  byId("user").value = query.get("user") ?? "";
  document.title = query.get("user") ? `${query.get("user")} · StreamFlow features` : "StreamFlow features";
  if (query.get("user")) look(query.get("user"), service);
  else byId("result").replaceChildren();
}

async function look(user, service) {
  const turn = ++latest;
  const of = encodeURIComponent(user);
  const on = `service=${encodeURIComponent(service)}`;
  // A closed door or a store that is down: no need to ask three times.
  let vector;
  try {
    vector = await get(`/features/${of}?${on}`);
  } catch (problem) {
    if (turn === latest) say(problem);
    return;
  }
  if (turn !== latest) return;
  say();
  const described = catalogue.services.find((s) => s.name === vector.service);
  const cells = show(vector, described);
  if (!vector.found) return;
  const whenLatest = (fill) => (data) => turn === latest && fill(data);
  get(`/distributions?${on}`).then(
    whenLatest(({ features, sampled }) => {
      for (const [name, cell] of Object.entries(cells))
        if (features[name]) compare(cell, vector.features[name], features[name], sampled);
    }),
    () => {},
  );
  get(`/features/${of}/history?${on}`).then(
    whenLatest(({ views }) => {
      for (const view of described.views)
        for (const feature of view.features)
          past(cells[feature.name], feature, views[view.name], vector.views[view.name].as_of);
    }),
    () => {},
  );
}

function say(problem) {
  if (!problem) return byId("message").replaceChildren();
  if (problem.status === 401) byId("key").hidden = false;
  byId("result").replaceChildren();
  byId("message").replaceChildren(element("p", { class: "problem" }, problem.detail ?? "Something went wrong."));
}

function show(vector, service) {
  const cells = {};
  const sections = service.views.map((view) => {
    const origin = vector.views[view.name] ?? { status: "computed" };
    const rows = view.features.map((feature) => {
      const compareCell = element("div", { class: "compare" });
      const about = element("div", {},
        element("span", { class: "name" }, feature.name),
        element("p", { class: "meaning" }, ...prose(feature.description),
          feature.lineage ? element("span", {}, " ", element("a", {
            href: feature.lineage, "aria-label": `Lineage of ${feature.name} in dbt's docs` }, "Lineage")) : null));
      const row = element("li", { class: "feature", "data-feature": feature.name },
        about, valueOf(vector.features[feature.name], feature.unit), compareCell);
      cells[feature.name] = { about, compare: compareCell, whole: feature.type.startsWith("int") };
      return row;
    });
    return element("section", { class: "view", "aria-labelledby": `view-${view.name}` },
      element("h2", { id: `view-${view.name}` }, view.name, " ",
        element("span", { class: `badge ${origin.status}` }, origin.status.replaceAll("_", " "))),
      // The first sentence says what the view is; the rest is for those who build it, in dbt's docs.
      element("p", {}, ...prose(view.description.split(/(?<=\.)\s/)[0])),
      element("p", { class: "origin" }, ...originOf(origin)),
      element("ul", { class: "features" }, ...rows));
  });
  const lead = vector.found
    ? ["What was known strictly before ", element("strong", {}, moment(vector.as_of)), `, ${age(vector)} ago. `,
        service.description]
    : ["Nothing is known about this user: every value is null."];
  byId("result").replaceChildren(element("h1", {}, vector.user_id), element("p", { class: "lead" }, ...lead), ...sections);
  return cells;
}

function originOf(origin) {
  if (origin.status === "computed") return ["Computed at the request, from the features that it names."];
  if (!origin.as_of) return ["No row for this user."];
  const parts = [`as of ${moment(origin.as_of)}`];
  if (origin.known_at) parts.push(` · computed ${moment(origin.known_at)}`);
  parts.push(origin.invocation_id ? " · dbt invocation " : " · without a publication");
  return [...parts, origin.invocation_id ? element("code", {}, origin.invocation_id) : null];
}

function moment(text) {
  if (!text || text.endsWith("infinity")) return text ?? "";
  const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" });
  return `${date.format(new Date(text)).replace(", 00:00", "")} UTC`;
}

function age(vector) {
  const seconds = Math.max(...Object.values(vector.views).map((v) => v.age_seconds ?? 0));
  for (const [unit, size] of [["year", 31557600], ["day", 86400], ["hour", 3600], ["minute", 60]]) {
    const count = Math.floor(seconds / size);
    if (count >= (unit === "year" ? 2 : 1)) return `${numbers.format(count)} ${unit}${count === 1 ? "" : "s"}`;
  }
  return "less than a minute";
}

const written = (value) =>
  value === null ? "null" : Array.isArray(value) ? value.map(written).join(", ") || "(none)"
    : typeof value === "object" ? JSON.stringify(value) : typeof value === "number" ? numbers.format(value) : value === true ? "yes" : value === false ? "no" : value;

function valueOf(value, unit) {
  const shown = typeof value === "string" && value === "" ? "(empty)" : written(value);
  return element("div", { class: value === null ? "value null" : "value", title: String(value) }, shown,
    value !== null && unit ? element("span", { class: "unit" }, unit) : null);
}

/** Where the value stands among all users: a histogram, or the share of each category. */
function compare(cell, value, distribution, sampled) {
  const known = distribution.users - distribution.nulls;
  if (!known) return cell.compare.replaceChildren(element("p", { class: "standing" }, "null for every user"));
  const of = `${numbers.format(known)} ${sampled ? "sampled users" : "users"}`;
  if (distribution.kind === "category") return cell.compare.replaceChildren(shares(value, distribution, known));
  const { low, high, counts, below, above } = distribution;
  const step = (high - low) / counts.length;
  const here = value === null ? -1 : Math.min(Math.max(Math.floor((value - low) / step), 0), counts.length - 1);
  const standing = value === null ? `null, as for ${percent(distribution.nulls / distribution.users)} of users`
    : standingOf(value, here, distribution, known);
  // Steps of whole numbers are centred: 2.5 to 3.5 is 3.
  const from = (i) => short.format(low + i * step + (cell.whole && step % 1 === 0 ? 0.5 : 0));
  const to = (i) => short.format(low + (i + 1) * step - (cell.whole && step % 1 === 0 ? 0.5 : 0));
  const most = Math.max(...counts);
  const width = 240 / counts.length;
  const bar = (i, y, height, mine, ...inside) => element("rect", { x: i * width + 0.5, y, height,
    width: Math.max(width - 1, 0.5), class: mine ? "here" : null }, ...inside);
  const bars = counts.map((count, i) => {
    const height = count ? Math.max((count / most) * 40, 1) : 0;
    const range = from(i) === to(i) ? from(i) : `${from(i)} to ${to(i)}`;
    return bar(i, 42 - height, height, i === here, element("title", {}, `${range}: ${numbers.format(count)} users`));
  });
  if (here >= 0) bars.push(bar(here, 42.5, 2.5, true));
  cell.compare.replaceChildren(
    element("svg", { class: "plot", viewBox: "0 0 240 45", preserveAspectRatio: "none", role: "img",
      "aria-label": `Distribution over ${of}. This user: ${standing}.` },
      element("line", { x1: 0, x2: 240, y1: 42, y2: 42, "stroke-width": 0.5 }), ...bars),
    element("p", { class: "caption" }, element("span", {}, `${below ? "≤ " : ""}${from(0)}`),
      element("span", {}, of), element("span", {}, `${above ? "≥ " : ""}${to(counts.length - 1)}`)),
    element("p", { class: "standing" }, standing));
}

function standingOf(value, here, { low, high, counts, below, above }, known) {
  const lower = below + counts.slice(0, here).reduce((sum, n) => sum + n, 0);
  if (value < low) return `among the lowest ${percent(below / known)}`;
  if (value > high) return `among the highest ${percent(above / known)}`;
  const alike = counts[here];
  if (alike > known / 4) return `like ${percent(alike / known)} of users`;
  return `higher than ${percent((lower + alike / 2) / known)} of users`;
}

function shares(value, { counts, labels }, known) {
  const mine = value === null ? null : String(value);
  return element("ul", { class: "shares" }, ...labels.map((label, i) =>
    element("li", { class: label === mine ? "here" : null },
      element("span", {}, label === "true" ? "yes" : label === "false" ? "no" : label),
      element("span", {}, percent(counts[i] / known)),
      element("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
        element("rect", { width: (100 * counts[i]) / known, height: 4 })))));
}

/** Values at earlier as_of's, newest first, folded away. */
function past(cell, feature, rows, current) {
  const earlier = (rows ?? []).filter((row) => row.as_of !== current);
  if (!cell || !earlier.length) return;
  const plain = earlier.length === 1 ? "1 earlier value" : `${earlier.length} earlier values`;
  cell.about.append(element("details", {},
    element("summary", { "aria-label": `${plain} of ${feature.name}` }, plain),
    element("table", { class: "past" }, element("tbody", {}, ...earlier.map((row) =>
      element("tr", {}, element("th", { scope: "row" }, moment(row.as_of)),
        element("td", {}, written(row.features[feature.name]))))))));
}
