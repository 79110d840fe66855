// The rewards of a job with DPO: of preferred and rejected answers, and the margin between them.

import { axes, color, sizeOf, written } from "./chart.js";

export class Rewards {
  constructor(element) {
    this.element = element;
    this.summary = document.getElementById("rewards-summary");
    new ResizeObserver(() => this.plot?.setSize(sizeOf(element))).observe(element);
  }

  draw({ steps, chosen, rejected, accuracies }, rebuild) {
    if (!chosen.length) return;
    const data = [steps, chosen.map((reward, n) => reward - rejected[n]), chosen, rejected];
    if (rebuild) this.plot?.destroy();
    if (rebuild || !this.plot) {
      this.element.replaceChildren();
      this.plot = new uPlot(this.options(), data, this.element);
    } else this.plot.setData(data);
    this.summary.textContent = `At step ${steps.at(-1).toLocaleString("en")}, the margin is ${written(data[1].at(-1))}, and ${Math.round(100 * accuracies.at(-1))}% of the pairs are correct.`;
  }

  options() {
    const line = (label, stroke, width) => ({ label, stroke, width, value: (_, value) => written(value), spanGaps: true, points: { show: false } });
    return {
      ...sizeOf(this.element),
      scales: { x: { time: false } },
      axes: axes(),
      series: [
        { label: "Step", value: (_, value) => (value == null ? "–" : value.toLocaleString("en")) },
        line("Margin", color("--calm"), 1),
        line("Preferred", color("--good"), 1.5),
        line("Rejected", color("--warn"), 1.5),
      ],
    };
  }
}
