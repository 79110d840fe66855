// The loss curve of a job: each step, a smoothed line, and the held-out loss.

const MOST_POINTS = 4000;
const FIRST_RETRY_MS = 500, LAST_RETRY_MS = 15000;

export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const written = (value) => (value == null ? "–" : value.toFixed(4).replace(/^-(0\.0+)$/, "$1"));

export async function fetchCurve(path) {
  const response = await fetch(`${path}/curve`, { headers: { "hx-request": "true" } }).catch(() => null);
  const answered = response?.ok && response.headers.get("content-type")?.includes("json");
  return answered ? response.json().catch(() => null) : null;
}

export function sizeOf(element) {
  return { width: element.clientWidth, height: Math.max(220, Math.min(320, element.clientWidth * 0.5)) };
}

export function axes() {
  const line = color("--line"), axis = { stroke: color("--muted"), grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  return [{ ...axis, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? (tick + 0).toLocaleString("en") : "")) }, { ...axis, size: 56 }];
}

export class Chart {
  constructor(element, path) {
    this.element = element;
    this.path = path;
    this.lastStep = "0.0";
    this.lastEvaluation = "0.0";
    this.early = null; // points received while the curve is loading
    this.loads = 0; // number of the newest load; results of earlier loads are ignored
    this.zoomed = false;
    this.note = document.getElementById("curve-note");
    this.all = document.getElementById("show-all");
    this.all.addEventListener("click", () => {
      this.zoom(false);
      this.plot.setData(this.data);
      element.focus();
    });
    this.clear();
    new ResizeObserver(() => this.plot?.setSize(sizeOf(element))).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw(true));
    document.getElementById("curve-table").addEventListener("toggle", () => this.tell());
  }

  clear() {
    Object.assign(this, { steps: [], losses: [], smoothed: [], segments: [], evaluations: new Map(), measured: 0, chosen: [], rejected: [], accuracies: [] });
  }

  // Retry until the load succeeds, then add the points received meanwhile.
  async load() {
    const number = ++this.loads;
    this.early ??= [];
    let curve = await fetchCurve(this.path);
    for (let wait = FIRST_RETRY_MS; !curve && number === this.loads; wait = Math.min(2 * wait, LAST_RETRY_MS)) {
      this.say("Reloading the curve…");
      await new Promise((resolve) => { setTimeout(resolve, wait); });
      if (number === this.loads) curve = await fetchCurve(this.path);
    }
    if (number !== this.loads) return;
    this.say("");
    this.take(curve);
    const early = this.early;
    this.early = null;
    for (const each of early) this.add(each);
  }

  say(text) {
    this.note.textContent = text;
    this.note.hidden = !text;
  }

  take(curve) {
    this.clear();
    this.steps = curve.steps;
    this.losses = curve.losses;
    this.smoothed = curve.smoothed;
    this.segments = curve.segments;
    this.measured = curve.measured;
    for (const name of ["chosen", "rejected", "accuracies"]) this[name] = curve[name];
    this.evaluations = new Map(curve.eval_steps.map((step, n) => [step, curve.eval_losses[n]]));
    this.lastStep = curve.last.join(".");
    this.draw(false);
  }

  add(curve) {
    if (this.early) {
      this.early.push(curve);
      return;
    }
    const [lastSegment, lastStep] = this.lastStep.split(".").map(Number);
    const steps = curve.steps.filter(([segment, step]) => segment > lastSegment || (segment === lastSegment && step > lastStep));
    for (const [segment, step, loss, smoothed, ...rewards] of steps) {
      // A launch that starts before the last step discards the later points.
      if (this.steps.at(-1) >= step)
        for (const evaluated of [...this.evaluations.keys()]) if (evaluated >= step) this.evaluations.delete(evaluated);
      while (this.steps.length && this.steps.at(-1) >= step) {
        for (const column of [this.steps, this.losses, this.smoothed, this.segments, this.chosen, this.rejected, this.accuracies]) column.pop();
        this.measured -= 1;
      }
      this.steps.push(step);
      this.losses.push(loss);
      this.smoothed.push(smoothed);
      this.segments.push(segment);
      rewards.forEach((value, n) => [this.chosen, this.rejected, this.accuracies][n].push(value));
      this.measured += 1;
      this.lastStep = `${segment}.${step}`;
    }
    for (const [segment, step, loss] of curve.evaluations) {
      if (!this.undone(segment, step)) this.evaluations.set(step, loss);
      this.lastEvaluation = `${segment}.${step}`;
    }
    if (this.steps.length > MOST_POINTS) this.load();
    else this.draw(false);
  }

  undone(segment, step) {
    const before = this.steps.findLastIndex((each) => each <= step);
    return before >= 0 && this.segments[before] > segment;
  }

  mark() {
    const marks = [...document.querySelectorAll("[data-checkpoint]")].map((row) => Number(row.dataset.checkpoint));
    if (marks.join() === this.marks?.join()) return;
    this.marks = marks;
    this.plot?.redraw(false);
  }

  columns() {
    const all = [...new Set([...this.steps, ...this.evaluations.keys()])].sort((a, b) => a - b);
    const at = new Map(this.steps.map((step, n) => [step, n]));
    const of = (values) => all.map((step) => (at.has(step) ? values[at.get(step)] : null));
    return [all, of(this.losses), of(this.smoothed), all.map((step) => this.evaluations.get(step) ?? null)];
  }

  draw(rebuild) {
    if (!this.steps.length && !this.evaluations.size) return;
    this.data = this.columns();
    const { min, max } = this.plot?.scales.x ?? {};
    if (rebuild) this.plot?.destroy();
    if (rebuild || !this.plot) {
      this.element.replaceChildren();
      this.plot = new uPlot(this.options(), this.data, this.element);
      this.plot.over.addEventListener("dblclick", () => this.zoom(false));
      this.mark();
    } else this.plot.setData(this.data, !this.zoomed);
    if (this.zoomed) this.plot.setScale("x", { min, max });
    this.tell();
    this.rewards?.draw(this, rebuild);
  }

  // Keep the zoomed range while points are added.
  zoom(zoomed) {
    this.zoomed = zoomed;
    this.all.hidden = !zoomed;
  }

  options() {
    const muted = color("--muted"), good = color("--good"), calm = color("--calm"), warn = color("--warn");
    const number = (_, value) => written(value);
    return {
      ...sizeOf(this.element),
      scales: { x: { time: false } },
      axes: axes(),
      series: [
        { label: "Step", value: (_, value) => (value == null ? "–" : value.toLocaleString("en")) },
        { label: "Train loss", stroke: `color-mix(in srgb, ${calm} 70%, transparent)`, width: 1, value: number, spanGaps: true, points: { show: false } },
        { label: "Smoothed", stroke: calm, width: 2.5, value: number, spanGaps: true, points: { show: () => this.steps.length === 1, size: 7, fill: calm } }, // one point has no line
        { label: "Held-out", stroke: warn, width: 1.5, value: number, spanGaps: true, points: { show: true, size: 7, fill: warn } },
      ],
      hooks: { setSelect: [(plot) => { if (plot.select.width > 0) this.zoom(true); }], drawAxes: [(plot) => this.drawMarks(plot, good, muted)] },
    };
  }

  drawMarks(plot, good, muted) {
    const { ctx, bbox } = plot, pixel = devicePixelRatio;
    const at = (step, stroke, dash, text) => {
      const x = Math.round(plot.valToPos(step, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) return;
      ctx.strokeStyle = ctx.fillStyle = stroke;
      ctx.setLineDash(dash.map((each) => each * pixel));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      if (!text) return;
      ctx.font = `${11 * pixel}px sans-serif`;
      ctx.textAlign = "left";
      ctx.fillText(text, x + 4 * pixel, bbox.top + 12 * pixel);
    };
    ctx.save();
    ctx.lineWidth = pixel;
    for (const step of this.marks ?? []) at(step, good, [2, 4]);
    this.segments.forEach((segment, n) => {
      if (n && segment !== this.segments[n - 1]) at(this.steps[n], muted, [], `launch ${segment}`);
    });
    ctx.restore();
  }

  tell() {
    const [steps, losses, smoothed, held] = this.data ?? [[], [], [], []];
    if (!steps.length) return;
    const first = smoothed.findIndex((each) => each !== null), last = smoothed.findLastIndex((each) => each !== null);
    const evaluated = held.findLastIndex((each) => each !== null);
    const sentences = [];
    const at = (n) => `${written(smoothed[n])} at step ${steps[n].toLocaleString("en")}`;
    if (first < last) sentences.push(`Smoothed train loss went from ${at(first)} to ${at(last)}.`);
    else if (last >= 0) sentences.push(`Train loss is ${at(last)}.`);
    if (evaluated >= 0) sentences.push(`Held-out loss is ${written(held[evaluated])} at step ${steps[evaluated].toLocaleString("en")}.`);
    if (this.marks?.length) sentences.push("Dotted lines are checkpoints.");
    document.getElementById("curve-summary").textContent = sentences.join(" ");
    const table = document.getElementById("curve-table");
    if (!table.open) return;
    const shown = this.steps.length, note = document.getElementById("curve-table-note");
    note.hidden = shown >= this.measured;
    note.textContent = `The chart shows ${shown.toLocaleString("en")} of ${this.measured.toLocaleString("en")} steps: the lowest and the highest loss of each range.`;
    const rows = steps.map((step, n) => {
      const row = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row";
      head.textContent = step.toLocaleString("en");
      const cells = [losses[n], smoothed[n], held[n]].map((value) => {
        const cell = document.createElement("td");
        cell.textContent = written(value);
        return cell;
      });
      for (const cell of [head, ...cells]) cell.className = "number";
      row.append(head, ...cells);
      return row;
    });
    table.querySelector("tbody").replaceChildren(...rows);
    table.querySelector(".table-wrap").tabIndex = 0;
  }
}
