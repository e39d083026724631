// The page: asks the receiver for its summary and for one heatmap, shows them, and asks again. Drawing is in heatmap.js.
// Everything chosen is kept in the address, so a reload or a shared link shows the same picture.
import { Heatmap, quantileNames } from "./heatmap.js";
import { number } from "./format.js";

const slowest = 15_000; // ms between two refreshes at most
const fastest = 2_000;
const patience = 20_000; // ms until an unanswered request is given up

const kinds = { classic: "Classic histogram", native: "Native histogram", custom: "Native histogram with custom buckets" };

const $ = (id) => document.getElementById(id);
const chart = new Heatmap($("heatmap"), $("scale"), $("tip"), $("readout"));
const chosen = new URLSearchParams(location.search);
let timer = 0;
let asking = null; // the AbortController of the refresh under way

async function ask(path, signal) {
  const answer = await fetch(path, { signal: AbortSignal.any([signal, AbortSignal.timeout(patience)]) });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

// refresh asks for everything once. A newer call takes over from an older one.
async function refresh() {
  clearTimeout(timer);
  asking?.abort();
  const { signal } = asking = new AbortController();
  let interval = fastest;
  try {
    const summary = await ask("api/summary", signal);
    const histogram = choose(summary);
    showOverview(summary, histogram);
    if (histogram) {
      const heatmap = await ask("api/heatmap?" + heatmapQuery(histogram), signal);
      showHeatmap(heatmap, histogram);
      interval = Math.min(slowest, Math.max(fastest, histogram.interval_seconds * 500));
    } else {
      showWaiting(summary);
    }
    showStatus(`${summary.samples.toLocaleString("en")} samples of ${summary.metrics} metrics received`, false);
  } catch (err) {
    if (signal.aborted) return;
    showStatus(err instanceof TypeError || err.name === "TimeoutError" ? "the receiver does not answer" : err.message, true);
  }
  if ($("live").checked) timer = setTimeout(refresh, interval);
}

// choose finds the histogram named in the address, else the busiest one.
function choose(summary) {
  const all = summary.histograms;
  const named = all.find((h) => h.name === chosen.get("metric") && h.kind === (chosen.get("kind") ?? h.kind));
  return named ?? all.toSorted((a, b) => (b.events_per_second ?? 0) - (a.events_per_second ?? 0))[0];
}

function heatmapQuery(histogram) {
  const query = new URLSearchParams({ metric: histogram.name, kind: histogram.kind, range: range() });
  for (const [key, value] of chosen) {
    if (key.startsWith("label.")) query.set(key, value);
  }
  return query;
}

const range = () => document.querySelector("input[name=range]:checked").value;

function showStatus(text, bad) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function showWaiting(summary) {
  show("empty");
  $("controls").hidden = true;
  $("waiting").textContent = "Waiting for the first histogram";
  $("detail").textContent = summary.samples
    ? `${summary.samples.toLocaleString("en")} samples of ${summary.metrics} metrics came in, but none of them is a histogram yet.`
    : "No sample came in yet. The picture appears by itself after the second push of a histogram.";
  $("howto").hidden = false;
  $("example").textContent = `remote_write:\n  - url: ${location.origin}/api/v1/write`;
}

function showNothing(heatmap, histogram) {
  show("empty");
  const age = Date.now() / 1000 - heatmap.newest;
  const few = histogram.interval_seconds === 0;
  $("waiting").textContent = few ? `Waiting for the second sample of ${heatmap.metric}` : `No samples of ${heatmap.metric} in this range`;
  $("detail").textContent = few
    ? "A rate needs two samples of the same series. The first one is here."
    : `The newest one is ${ago(age)}. Choose a longer range or other labels, or see whether the sender still runs.`;
  $("howto").hidden = true;
}

function show(id) {
  $("picture").hidden = id !== "picture";
  $("empty").hidden = id !== "empty";
}

function showHeatmap(heatmap, histogram) {
  $("controls").hidden = false;
  showLabels(heatmap.labels);
  document.title = `${heatmap.metric} – latpush receiver`;
  if (!heatmap.columns.some((c) => c.cells)) return showNothing(heatmap, histogram);
  show("picture");
  showFigures(heatmap);
  const every = histogram.interval_seconds ? `a sample every ${number(histogram.interval_seconds)} s` : "one sample so far";
  chart.draw(heatmap, { log: $("log").checked, fit: $("fit").checked, lines: $("lines").checked });
  const merged = chart.merge > 1 ? `; a row is ${chart.merge} buckets` : "";
  $("help").textContent = `${heatmap.help} ${kinds[heatmap.kind]}, ${histogram.series} series, ${every}; ` +
    `a column is ${number(heatmap.step)} s, its rate is taken over ${number(heatmap.window)} s${merged}.`;
}

function showFigures(heatmap) {
  const now = heatmap.columns.findLast((c) => c.cells);
  const stale = heatmap.end - now.t > heatmap.step;
  const when = stale ? `at ${new Date(now.t * 1000).toLocaleTimeString([], { hour12: false })}` : "now";
  const whole = heatmap.total;
  const seconds = { m: 60, h: 3600 }[range().at(-1)] * parseInt(range());
  const figures = [
    [`Events/s ${when}`, number(now.rate), whole && `${number(whole.rate * seconds)} events in ${range()}`],
    ["Mean", now.mean, whole && `${whole.mean} in ${range()}`],
    ...quantileNames.map((name, i) => [name, now.quantiles[i], whole && `${whole.quantiles[i]} in ${range()}`, i]),
  ];
  $("figures").replaceChildren(...figures.map(([name, value, note, line]) => {
    const group = document.createElement("div");
    const dt = group.appendChild(document.createElement("dt"));
    if (line !== undefined) dt.appendChild(document.createElement("i")).style.borderColor = chart.lineColour(line);
    dt.append(name);
    const dd = group.appendChild(document.createElement("dd"));
    dd.append(value);
    dd.appendChild(document.createElement("small")).textContent = note ?? "";
    return group;
  }));
}

// showLabels makes one drop-down for each label, and touches those that did not change as little as possible: one may be open.
function showLabels(labels) {
  const names = Object.keys(labels).sort((a, b) => (labels[b].length > 1) - (labels[a].length > 1) || a.localeCompare(b));
  const kept = new Map([...$("labels").querySelectorAll("select")].map((s) => [s.name, s]));
  const wanted = names.map((name) => {
    const select = kept.get(name) ?? makeSelect(name);
    fill(select, [["", "all"], ...labels[name].map((v) => [v, v])], chosen.get("label." + name) ?? "");
    return select.parentElement;
  });
  if (wanted.some((w, i) => w !== $("labels").children[i]) || wanted.length !== $("labels").children.length) {
    $("labels").replaceChildren(...wanted);
  }
}

function makeSelect(name) {
  const label = document.createElement("label");
  label.append(name + " ");
  const select = label.appendChild(document.createElement("select"));
  select.name = name;
  select.addEventListener("change", () => pick("label." + name, select.value));
  return select;
}

function fill(select, options, value) {
  const before = [...select.options].map((o) => o.value).join("\n");
  if (before !== options.map(([v]) => v).join("\n")) {
    select.replaceChildren(...options.map(([v, text]) => new Option(text, v)));
  }
  if (select.value !== value) select.value = value;
}

function showOverview(summary, histogram) {
  $("overview").hidden = summary.histograms.length === 0;
  fill($("metric"), summary.histograms.map((h) => [h.kind + ":" + h.name, h.kind === "classic" ? h.name : `${h.name} (${h.kind})`]),
    histogram ? histogram.kind + ":" + histogram.name : "");
  const focused = document.activeElement?.dataset?.key;
  $("rows").replaceChildren(...summary.histograms.map((h) => {
    const row = document.createElement("tr");
    row.dataset.key = h.kind + ":" + h.name;
    row.tabIndex = 0;
    row.setAttribute("aria-current", h === histogram);
    row.title = h.help ?? "";
    for (const text of [h.name, h.kind, h.series, number(h.events), number(h.events_per_second), h.p50_text, h.p99_text,
      h.samples.toLocaleString("en"), ago(h.age_seconds)]) {
      row.insertCell().textContent = text;
    }
    return row;
  }));
  if (focused) [...$("rows").rows].find((r) => r.dataset.key === focused)?.focus();
}

function ago(seconds) {
  if (seconds < 120) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3600)} h ago`;
}

// pick keeps a choice in the address and draws it.
function pick(key, value) {
  if (value) chosen.set(key, value);
  else chosen.delete(key);
  history.replaceState(null, "", chosen.size ? "?" + chosen : location.pathname);
  refresh();
}

// pickMetric changes the histogram; the labels of the old one do not apply to the new one.
function pickMetric(key) {
  const [, kind, name] = key.match(/^(\w+):(.*)$/);
  for (const k of [...chosen.keys()]) if (k.startsWith("label.")) chosen.delete(k);
  chosen.set("kind", kind);
  pick("metric", name);
}

function start() {
  const saved = document.querySelector(`input[name=range][value="${CSS.escape(chosen.get("range") ?? "")}"]`);
  if (saved) saved.checked = true;
  for (const id of ["log", "fit", "lines"]) {
    $(id).checked = chosen.get(id) !== "off";
    $(id).addEventListener("change", () => pick(id, $(id).checked ? "" : "off"));
  }
  $("live").addEventListener("change", refresh);
  $("metric").addEventListener("change", () => pickMetric($("metric").value));
  for (const input of document.querySelectorAll("input[name=range]")) input.addEventListener("change", () => pick("range", range()));
  $("rows").addEventListener("click", (e) => pickMetric(e.target.closest("tr").dataset.key));
  $("rows").addEventListener("keydown", (e) => {
    if (e.key === "Enter" && e.target.dataset.key) pickMetric(e.target.dataset.key);
  });
  $("controls").addEventListener("submit", (e) => e.preventDefault());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else if ($("live").checked) refresh();
  });
  refresh();
}

start();
