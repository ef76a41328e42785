// The catalogue: features found by name, meaning or raw column, and a page for each.

import { element, get, getText, prose, useKey } from "./common.js";

const byId = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const whole = new Intl.NumberFormat("en");
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const day = (text) => text.slice(0, 10);
const title = "Catalogue · StreamFlow features";
let latest = 0; // number of the newest request: an older one that is slow must not overwrite it

start();

function start() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    go(`/browse?q=${encodeURIComponent(byId("words").value.trim())}`);
  });
  byId("key").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(byId("key-value").value.trim());
    byId("key").hidden = true;
    fromAddress();
  });
  addEventListener("popstate", fromAddress);
  fromAddress();
}

function go(address) {
  history.pushState({}, "", address);
  fromAddress();
  scrollTo(0, 0);
}

/** A link that stays on this page. */
function link(address, ...children) {
  return element("a", { href: address, onclick: (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(address);
  } }, ...children);
}

const pageOf = (view, name) => `/browse?feature=${encodeURIComponent(`${view}.${name}`)}`;

async function fromAddress() {
  const turn = ++latest;
  const query = new URLSearchParams(location.search);
  byId("words").value = query.get("q") ?? "";
  const name = query.get("feature");
  try {
    if (name) {
      const path = `/catalogue/${encodeURIComponent(name)}`;
      const feature = await get(path);
      const drawn = feature.described ? await getText(`${path}/lineage.svg`) : null;
      if (turn === latest) show(feature, drawn);
    } else {
      const found = await get(`/search?q=${encodeURIComponent(query.get("q") ?? "")}`);
      if (turn === latest) list(found, query.get("q") ?? "");
    }
  } catch (problem) {
    if (turn === latest) say(problem);
  }
}

function say(problem) {
  if (!problem) return byId("message").replaceChildren();
  if (problem.status === 401) byId("key").hidden = false;
  byId("result").replaceChildren();
  byId("message").replaceChildren(
    element("p", { class: "problem" }, problem.detail ?? "Something went wrong."));
}

function list({ total, features }, words) {
  say();
  document.title = title;
  const those = words ? `${features.length} of ${total} features` : `${total} features`;
  byId("result").replaceChildren(
    element("h1", {}, words ? `“${words}”` : "Features"),
    element("p", { class: "count", role: "status" }, those),
    element("ul", { class: "found" }, ...features.map((feature) =>
      element("li", {},
        element("div", {},
          element("span", { class: "name" }, link(pageOf(feature.view, feature.name), feature.name)),
          element("p", {}, ...prose(feature.description)),
          feature.raw.length ? element("p", { class: "raw" }, feature.raw.join("  ")) : null),
        element("div", { class: "aside" }, feature.view, element("br"),
          [feature.unit, feature.on_demand ? "computed at the request" : ""].filter(Boolean).join(", "))))));
}

function show(feature, drawn) {
  say();
  document.title = `${feature.name} · StreamFlow features`;
  const newest = feature.series.at(-1);
  byId("result").replaceChildren(...[
    element("p", { class: "back" }, link("/browse", "All features")),
    element("h1", {}, feature.name),
    element("p", { class: "meaning-lead" }, ...prose(feature.description)),
    facts({
      View: feature.view,
      Entity: `${feature.entity} (${feature.keys.join(", ")})`,
      Type: feature.type,
      Unit: feature.unit || "none",
      Owner: feature.owner || "nobody is named",
      Online: feature.online_as_of
        ? `as of ${day(feature.online_as_of)}, ${age(feature.age_seconds)} old`
        : "not yet",
      Null: newest ? `${percent(newest.nulls / newest.rows)} of ${whole.format(newest.rows)}` : null,
      "Since the month before": feature.drift ? moved(feature.drift) : null,
    }),
    feature.described ? null : element("p", { class: "problem" },
      ...prose("Lineage, statistics and tests are not worked out yet: `make catalogue`.")),
    drawn ? lineage(drawn) : null,
    feature.raw.length ? rawColumns(feature) : null,
    feature.expressions.length ? expressions(feature) : null,
    feature.series.length ? overTime(feature) : null,
    feature.drift ? drift(feature.drift) : null,
    uses(feature),
    feature.tests.length ? tests(feature.tests) : null,
    feature.publication ? element("p", { class: "count" },
      `As published at known_at ${feature.publication}.`) : null,
  ].filter(Boolean));
  byId("result").focus({ preventScroll: true });
}

const age = (seconds) =>
  seconds < 172800 ? `${Math.round(seconds / 3600)} hours` : `${whole.format(Math.round(seconds / 86400))} days`;

const moved = (d) => d.moved ? element("span", { class: "warn" }, `moved, ${percent(d.distance)} apart`)
  : d.changed ? `not moved; ${whole.format(d.changed)} changed` : "the same for everyone";

function facts(about) {
  return element("dl", { class: "facts" }, ...Object.entries(about)
    .filter(([, value]) => value)
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

function part(name, about, ...children) {
  return element("section", { class: "part", "aria-label": name },
    element("h2", {}, name), about ? element("p", {}, ...prose(about)) : null, ...children);
}

function scroll(name, ...children) {
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, ...children);
}

function lineage(drawn) {
  const made = new DOMParser().parseFromString(drawn, "image/svg+xml").documentElement;
  const kinds = { value: null, filter: "5 4", "join key": "1.5 3.5" };
  return part("Lineage", "", scroll("Lineage, drawn", document.importNode(made, true)),
    element("ul", { class: "legend" }, ...Object.entries(kinds).map(([kind, dash]) =>
      element("li", {}, element("svg", { viewBox: "0 0 40 8", "aria-hidden": "true" },
        element("path", { class: kind, d: "M0 4H40", "stroke-dasharray": dash })), kind))));
}

function table(heads, rows) {
  return scroll("Table", element("table", { class: "table" },
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells)))));
}

const cell = (text, name) => element("td", { class: name }, text);

function rawColumns(feature) {
  const row = (use, kinds) => [
    element("td", { class: "name" },
      link(`/browse?q=${encodeURIComponent(`${use.table}.${use.column}`)}`, `${use.table}.${use.column}`)),
    cell(kinds), cell(use.unit), element("td", {}, ...prose(use.meaning))];
  return part("Raw columns", "What it is made from, in the files of a drop.",
    table(["column", "used as", "unit", "meaning"], [
      ...feature.raw.map((use) => row(use, use.kinds.join(", "))),
      ...feature.rows.map((use) => row(use, "decides which rows there are"))]));
}

function expressions(feature) {
  const [first, ...others] = feature.expressions;
  const text = ({ name, sql }) => [element("p", { class: "sql-name" }, name),
    element("pre", { class: "sql", tabindex: 0 }, sql)];
  return part(feature.on_demand ? "Code" : "SQL", `In \`${feature.file}\`, as it ran.`, ...text(first),
    others.length ? element("details", {},
      element("summary", {}, others.length === 1 ? "1 column that it uses" : `${others.length} columns that it uses`),
      ...others.flatMap(text)) : null);
}

/** Charts over as_of's: nulls, and quantiles of numbers or shares of categories. */
function overTime({ series, name, unit }) {
  const first = day(series[0].as_of), last = day(series.at(-1).as_of);
  const ends = element("p", { class: "caption" }, element("span", {}, first),
    element("span", {}, series.length > 1 ? last : ""));
  const x = (i) => series.length > 1 ? (240 * i) / (series.length - 1) : 120;
  const line = (values, top, low = 0) => {
    const y = (v) => 96 - (90 * (v - low)) / (top - low || 1);
    const points = values.map((v, i) => (v === null ? null : [x(i), y(v)]));
    const d = points.map((p, i) => p && `${i && points[i - 1] ? "L" : "M"}${p[0]} ${p[1]}`).filter(Boolean).join("");
    return [element("path", { class: "middle", d }), ...points.filter(Boolean).map(([px, py]) =>
      element("rect", { class: "dot", x: px - 1.5, y: py - 3, width: 3, height: 6 }))];
  };
  const figure = (caption, label, ...drawn) => element("figure", {},
    element("figcaption", {}, ...caption),
    element("svg", { class: "chart", viewBox: "0 0 240 100", preserveAspectRatio: "none", role: "img", "aria-label": label },
      element("line", { x1: 0, x2: 240, y1: 96, y2: 96 }), ...drawn), ends.cloneNode(true));
  const nulls = series.map((s) => (s.rows ? s.nulls / s.rows : 0));
  const told = series.map((s, i) => `${day(s.as_of)} ${percent(nulls[i])}`).join(", ");
  const figures = [figure([`Null: ${percent(nulls.at(-1))} of ${whole.format(series.at(-1).rows)} now; the top is 100 %`],
    `Share of nulls. ${told}`, ...line(nulls, 1))];
  const known = series.filter((s) => s.quantiles.length);
  if (known.length) {
    const low = Math.min(...known.map((s) => s.quantiles[0])), top = Math.max(...known.map((s) => s.quantiles[4]));
    const y = (v) => 96 - (90 * (v - low)) / (top - low || 1);
    const band = (a, b, name) => element("path", { class: name, d: `M${known.map((s) => `${x(series.indexOf(s))} ${y(s.quantiles[b])}`).join("L")}L${
      [...known].reverse().map((s) => `${x(series.indexOf(s))} ${y(s.quantiles[a])}`).join("L")}Z` });
    const median = known.map((s) => `${day(s.as_of)} ${numbers.format(s.quantiles[2])}`).join(", ");
    figures.push(figure([`Median ${numbers.format(known.at(-1).quantiles[2])} ${unit}; half and nine tenths of all around it, from ${
      numbers.format(low)} to ${numbers.format(top)}`], `Distribution of ${name}. Median: ${median}`,
      band(0, 4, "band"), band(1, 3, "inner"),
      ...line(series.map((s) => s.quantiles[2] ?? null), top, low)));
  }
  for (const value of Object.keys(series.at(-1).shares)) {
    const shares = series.map((s) => s.shares[value] ?? 0);
    figures.push(figure([`${value}: ${percent(shares.at(-1))} now`], `Share of ${value}. ${
      series.map((s, i) => `${day(s.as_of)} ${percent(shares[i])}`).join(", ")}`, ...line(shares, 1)));
  }
  return part("Values over time", `At ${series.length === 1 ? "one as_of" : `${series.length} as_of's`}, by the newest published versions.`,
    element("div", { class: "plots" }, ...figures));
}

function drift(d) {
  const most = Math.max(...d.bars.flatMap(([, a, b]) => [a, b]), 0.0001);
  const step = 240 / Math.max(d.bars.length, 1), width = Math.max((step - 2) / 2, 0.5);
  const bar = (i, share, k, name, label) => element("rect", { class: name, x: i * step + k * width,
    width, y: 96 - (90 * share) / most, height: (90 * share) / most }, element("title", {}, `${label}: ${percent(share)}`));
  const about = `${d.test}: p ${d.p_value < 1e-15 ? "below 1e-15" : numbers.format(d.p_value)}, PSI ${d.psi.toFixed(3)} (${d.psi_band}). `
    + `${whole.format(d.changed)} of ${whole.format(d.both)} changed value; ${percent(d.distance)} would have to, to turn one distribution into the other.`;
  return part("Drift", about, element("div", { class: "plots" }, element("figure", {},
    element("figcaption", {}, element("span", { class: "swatch" }), day(d.before), element("span", { class: "swatch now" }), day(d.as_of),
      d.unit ? `, ${d.unit}` : ""),
    element("svg", { class: "chart", viewBox: "0 0 240 100", preserveAspectRatio: "none", role: "img",
      "aria-label": `Shares by value, ${day(d.before)} and ${day(d.as_of)}: ${d.bars.map(([v, a, b]) => `${v} ${percent(a)}, then ${percent(b)}`).join("; ")}` },
      element("line", { x1: 0, x2: 240, y1: 96, y2: 96 }),
      ...d.bars.flatMap(([label, a, b], i) => [bar(i, a, 0, "then", label), bar(i, b, 1, "now", label)])),
    element("p", { class: "caption" }, element("span", {}, d.bars[0]?.[0] ?? ""), element("span", {}, d.bars.at(-1)?.[0] ?? "")))));
}

function uses(feature) {
  const rows = [
    ...feature.services.map((s) => [cell(s.name, "name"), cell("feature service"), cell(s.field, "name"), element("td", {}, ...prose(s.description))]),
    ...feature.computed.map((view) => [element("td", { class: "name" }, link(`/browse?q=${encodeURIComponent(view)}`, view)),
      cell("on-demand view"), cell(""), cell("computed from it at the request")]),
    ...feature.training_sets.map((s) => [cell(s.file, "name"), cell("training set"), cell(""),
      cell(`${s.rows === null ? "" : `${whole.format(s.rows)} rows, `}as of ${s.as_of.map(day).join(", ") || "its own rows"}, by ${s.service}, known at ${s.known_at ?? "-"}`)])];
  return part("Used in", rows.length ? "" : "Nothing uses it yet.",
    rows.length ? table(["name", "what", "as", "about"], rows) : null);
}

function tests(all) {
  const bad = (test) => !["pass", "success"].includes(test.status);
  return part("Tests", "What dbt's tests of it and of its model said when it was published.",
    table(["test", "result", "rows"], [...all].sort((a, b) => bad(b) - bad(a)).map((test) => [
      element("td", { class: "name", title: test.description || null }, test.name),
      cell(test.status, bad(test) ? "warn" : ""), cell(whole.format(test.failures), "number")])));
}
