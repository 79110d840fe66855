// The curves of two jobs by step: smoothed train loss, and held-out loss.

import { axes, color, fetchCurve, sizeOf, written } from "./chart.js";

const element = document.getElementById("curves");
const jobs = ["1", "2"].map((n) => ({ path: element.getAttribute(`data-path-${n}`), title: element.getAttribute(`data-title-${n}`) }));
const number = (_, value) => written(value);
const problem = document.getElementById("curves-problem");
const summary = document.getElementById("curves-summary");
const DASHES = [[], [10, 5]]; // dashed lines for the second job, for color-blind readers
let plot = null, curves = [];

function data() {
  const steps = [...new Set(curves.flatMap((curve) => [...curve.steps, ...curve.eval_steps]))].sort((a, b) => a - b);
  const columns = curves.flatMap((curve) => {
    const trained = new Map(curve.steps.map((step, n) => [step, curve.smoothed[n]]));
    const held = new Map(curve.eval_steps.map((step, n) => [step, curve.eval_losses[n]]));
    return [trained, held].map((values) => steps.map((step) => values.get(step) ?? null));
  });
  return [steps, ...columns];
}

function draw() {
  const colors = [color("--calm"), color("--warn")];
  const series = jobs.flatMap(({ title }, n) => [
    { label: `${title}, train (smoothed)`, stroke: colors[n], width: 2.5, dash: DASHES[n], value: number, spanGaps: true, points: { show: false } },
    { label: `${title}, held-out`, stroke: colors[n], width: 1, dash: DASHES[n], value: number, spanGaps: true, points: { show: true, size: 7, fill: colors[n] } },
  ]);
  plot?.destroy();
  element.replaceChildren();
  plot = new uPlot({ ...sizeOf(element), scales: { x: { time: false } }, axes: axes(), series: [{ label: "Step", value: (_, value) => (value == null ? "–" : value.toLocaleString("en")) }, ...series] }, data(), element);
}

function tell() {
  const sentences = jobs.map(({ title }, n) => {
    const { steps, smoothed, eval_losses: held } = curves[n];
    if (!steps.length) return `${title} has no steps yet.`;
    const train = `${title}: smoothed train loss ${written(smoothed.at(-1))} at step ${steps.at(-1).toLocaleString("en")}`;
    return held.length ? `${train}, held-out loss ${written(held.at(-1))}.` : `${train}.`;
  });
  summary.textContent = `${sentences.join(" ")} The lines of ${jobs[1].title} are dashed. Thin lines with points are held-out losses.`;
}

function said(text) {
  const words = document.createElement("p");
  words.className = "muted";
  words.textContent = text;
  return words;
}

// Name the jobs whose curves are missing.
function refuse(missing) {
  const again = document.createElement("button");
  again.type = "button";
  again.className = "secondary small";
  again.textContent = "Try again";
  again.addEventListener("click", load);
  problem.replaceChildren(`Cannot load the curve of ${missing.map(({ title }) => title).join(" and ")}. `, again);
  element.replaceChildren();
}

async function load() {
  problem.replaceChildren();
  element.replaceChildren(said("Loading the curves…"));
  const found = await Promise.all(jobs.map(({ path }) => fetchCurve(path)));
  const missing = jobs.filter((_, n) => !found[n]);
  if (missing.length) return refuse(missing);
  curves = found;
  tell();
  if (curves.some((curve) => curve.steps.length)) draw();
  else element.replaceChildren(said("No steps yet."));
}

new ResizeObserver(() => plot?.setSize(sizeOf(element))).observe(element);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (plot) draw(); });
await load();
