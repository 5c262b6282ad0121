"use strict";
// Asks for the state once a second and draws it. Everything from outside goes through textContent: names are data.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let key = sessionStorage.getItem("ssjf-key") || "";

const seconds = (s) => (s == null ? "–" : s < 1 ? `${Math.round(1000 * s)} ms` : s < 100 ? `${s.toFixed(s < 10 ? 2 : 1)} s` : `${Math.round(s)} s`);
const tokens = (t) => (t == null ? "–" : String(Math.round(t)));
const percent = (x) => (x == null ? "–" : `${(100 * x).toFixed(0)} %`);

function shape(parent, name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  if (text != null) node.textContent = text;
  parent.append(node);
  return node;
}

function rows(table, cells) {
  const body = $(table).tBodies[0];
  body.replaceChildren(...cells.map((line) => {
    const row = document.createElement("tr");
    for (const cell of line) {
      const field = document.createElement("td");
      field.textContent = cell.text ?? cell;
      if (cell.kind) field.className = cell.kind;
      row.append(field);
    }
    return row;
  }));
}

function histogram(id, own, other) {
  const svg = $(id), width = 560, height = 220, left = 36, bottom = 24, top = 8;
  svg.replaceChildren();
  const bars = own.counts.length, step = (width - left) / bars;
  const share = (d) => d.counts.map((count) => (d.n ? count / d.n : 0));
  const highest = Math.max(0.01, ...share(own), ...(other ? share(other) : []));
  const y = (value) => height - bottom - (value / highest) * (height - bottom - top);
  shape(svg, "line", { class: "axis", x1: left, x2: width, y1: height - bottom, y2: height - bottom });
  shape(svg, "text", { x: 0, y: top + 10 }, percent(highest));
  share(own).forEach((value, i) => shape(svg, "rect", { class: "own", x: left + i * step + 2, y: y(value), width: step - 4, height: height - bottom - y(value) }));
  if (other) {
    const path = share(other).map((value, i) => `${i ? "L" : "M"}${left + i * step},${y(value)}H${left + (i + 1) * step}`).join("");
    shape(svg, "path", { class: "fcfs", d: path });
  }
  own.edges.forEach((edge, i) => { if (i % 2) shape(svg, "text", { x: left + (i + 1) * step, y: height - 8, "text-anchor": "middle" }, edge < 1 ? `${1000 * edge} ms` : `${edge} s`); });
}

function summary(d, none) {
  return d.n ? `mean ${seconds(d.mean)}, p50 ${seconds(d.quantiles["0.5"])}, p90 ${seconds(d.quantiles["0.9"])}, p99 ${seconds(d.quantiles["0.99"])} over ${d.n} requests` : none;
}

function scatter(predictions) {
  const svg = $("scatter"), size = { width: 560, height: 320, left: 44, bottom: 28 };
  svg.replaceChildren();
  const highest = Math.max(10, ...predictions.points.flat());
  const place = (value) => Math.log1p(value) / Math.log1p(highest);
  const x = (value) => size.left + place(value) * (size.width - size.left - 8);
  const y = (value) => size.height - size.bottom - place(value) * (size.height - size.bottom - 8);
  shape(svg, "line", { class: "equal", x1: x(0), y1: y(0), x2: x(highest), y2: y(highest) });
  for (let mark = 1; mark <= highest; mark *= 10) {
    shape(svg, "text", { x: x(mark), y: size.height - 10, "text-anchor": "middle" }, mark);
    shape(svg, "text", { x: size.left - 6, y: y(mark) + 4, "text-anchor": "end" }, mark);
  }
  for (const [said, truth] of predictions.points) shape(svg, "circle", { class: "point", cx: x(said), cy: y(truth), r: 3.5 });
  $("prediction-text").textContent = predictions.n
    ? `across: predicted, up: actual. ${predictions.n} predictions; ranking τ-b ${predictions.tau_b == null ? "–" : predictions.tau_b.toFixed(2)} (0 is chance, 1 is perfect)`
    : "no predictions yet";
}

function show(state) {
  $("policy").textContent = `policy ${state.policy}`;
  $("num-waiting").textContent = state.num_waiting;
  $("num-running").textContent = state.num_running;
  $("mean-jct").textContent = seconds(state.jct.mean);
  $("p99-jct").textContent = seconds(state.jct.quantiles["0.99"]);
  const estimate = state.fcfs_estimate;
  $("gain").textContent = estimate ? percent(estimate.gain) : "–";
  histogram("jct", state.jct, estimate && estimate.jct);
  histogram("ttft", state.ttft);
  $("jct-text").textContent = summary(state.jct, "nothing has completed yet") + (estimate ? `. Estimate over ${estimate.num_jobs}: FCFS mean ${seconds(estimate.mean_jct_s)}, this policy ${seconds(estimate.own_mean_jct_s)}` : "")
    + (state.shadow_estimate ? `. Shadow policy: ${percent(state.shadow_estimate.gain)} below as served (estimate)` : "");
  $("ttft-text").textContent = summary(state.ttft, "no stream has begun yet");
  scatter(state.predictions);
  rows("backends", state.backends.map((b) => [b.name, b.kind, b.up ? "up" : { text: "out of order", kind: "down" }, (b.slots == null ? `${b.running}` : `${b.running} of ${b.slots}`) + (b.own_queued ? `, ${b.own_queued} in its own queue` : ""), seconds(b.work_left_s)]));
  rows("outcomes", Object.entries(state.outcomes).map(([name, count]) => [name, count]));
  $("adaptive").replaceChildren(...state.adaptive.map((lane) => {
    const line = document.createElement("p");
    line.textContent = `trust in predictions ${percent(lane.trust)}, pairs ranked right ${percent(lane.concordance)} (${lane.backends.join(", ")})`;
    return line;
  }));
  rows("waiting", state.waiting.map((w, i) => [i + 1, w.model, w.tenant || "–", w.tier, tokens(w.predicted_tokens), seconds(w.waited_s)]));
  rows("running", state.running.map((r) => [r.backend ?? "–", r.model, r.tenant || "–", tokens(r.predicted_tokens), seconds(r.for_s)]));
}

async function look() {
  try {
    const answer = await fetch("/dashboard/state", { headers: key ? { authorization: `Bearer ${key}` } : {} });
    const closed = answer.status === 401 || answer.status === 403;
    $("login").hidden = !closed;
    $("main").hidden = closed;
    if (closed) {
      $("connection").textContent = "needs a key";
    } else {
      show(await answer.json());
      $("connection").textContent = "live";
    }
  } catch (error) {
    $("connection").textContent = "the gateway does not answer";
  }
  setTimeout(look, 1000);
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  sessionStorage.setItem("ssjf-key", key);
});
look();
