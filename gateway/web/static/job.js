// The page of a job: its position in the events, its connection, its log and its curve.

import { Chart } from "./chart.js";
import { Rewards } from "./rewards.js";

const job = document.getElementById("job");
const status = document.getElementById("connection");
const log = document.getElementById("log-lines");
const follow = document.getElementById("follow-log");
const chart = new Chart(document.getElementById("chart"), job.dataset.path);
const rewards = document.getElementById("rewards");
if (rewards) chart.rewards = new Rewards(rewards);
const seen = { sequence: Number(job.dataset.sequence), line: job.dataset.line };

const SIGNED_OUT = 4401, TOO_OLD = 4422, MOST_LINES = 2000;

function liveUrl() {
  const asked = new URLSearchParams({
    after: seen.sequence, step: chart.lastStep, evaluation: chart.lastEvaluation, line: seen.line,
  });
  return `${location.protocol.replace("http", "ws")}//${location.host}${job.dataset.path}/live?${asked}`;
}

function say(text, link) {
  status.hidden = !text;
  status.textContent = text;
  if (!link) return;
  const anchor = document.createElement("a");
  anchor.href = link.href;
  anchor.textContent = link.text;
  status.append(" ", anchor);
}

job.addEventListener("htmx:ws:before:connection", (event) => { event.detail.connection.url = liveUrl(); });
job.addEventListener("htmx:ws:close", (event) => {
  const next = encodeURIComponent(location.pathname + location.search);
  if (event.detail.code === SIGNED_OUT) say("You are signed out. This page no longer updates.", { href: `/sign-in?next=${next}`, text: "Sign in again" });
  else if (event.detail.code === TOO_OLD) location.reload();
  else if (event.detail.reason !== "closed" || document.hidden) return;
  else if (event.detail.connection.config.reconnectCodes.includes(event.detail.code)) say("Reconnecting…");
  else say("This page no longer updates.", { href: location.pathname + location.search, text: "Reload" });
});
// A page restored by the browser has no connection.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

job.addEventListener("htmx:ws:after:message:incoming", (event) => {
  const frame = JSON.parse(event.detail.message.data);
  say(""); // not before: the server may close a connection immediately
  for (const sequence of frame.events) dropRepeats(`[data-sequence="${sequence}"]`);
  seen.sequence = Math.max(seen.sequence, frame.sequence);
  if (frame.line === null) reloadLog();
  else if (frame.line) {
    seen.line = frame.line.join(".");
    keepLog();
  }
  if (frame.curve === null) chart.load();
  else if (frame.curve) chart.add(frame.curve);
  if (frame.content) chart.mark();
  // A page that returns from the background reconnects from this position.
  event.detail.connection.url = liveUrl();
});

function dropRepeats(selector) {
  const [, ...repeats] = document.querySelectorAll(selector);
  for (const each of repeats) each.remove();
}

function keepLog() {
  const known = new Set();
  for (const line of [...log.querySelectorAll("[data-line]")])
    if (known.has(line.dataset.line)) line.remove();
    else known.add(line.dataset.line);
  while (log.children.length > MOST_LINES) log.firstElementChild.remove();
  toEnd();
}

// Load once at a time. New lines stay after the loaded ones.
let loading = Promise.resolve();
function reloadLog() {
  loading = loading.then(async () => {
    const [first, ...others] = log.children;
    await htmx.ajax("GET", `${job.dataset.path}/log`, { target: "#log-lines", swap: "afterbegin" });
    if (first && log.firstElementChild === first) return; // nothing was loaded
    for (const line of [first, ...others]) line?.remove();
    keepLog();
    const last = [...log.querySelectorAll("[data-line]")].at(-1);
    if (last) seen.line = last.dataset.line;
  });
}

function toEnd() {
  if (follow.checked) log.scrollTop = log.scrollHeight;
}

// A command may disable or remove its button. Keep the focus nearby.
let focused = null, section = null;
document.addEventListener("pointerdown", () => { focused = null; });
document.addEventListener("focusin", (event) => {
  focused = event.target;
  section = event.target.closest("section[tabindex]");
});
document.addEventListener("htmx:after:swap", () => {
  const lost = focused && (!focused.isConnected || focused.disabled);
  if (lost && (document.activeElement === document.body || document.activeElement === focused))
    (section ?? document.getElementById("job-state")).focus({ preventScroll: true });
});

log.addEventListener("scroll", () => {
  follow.checked = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
});
follow.addEventListener("change", toEnd);
toEnd();
chart.load();
// htmx may process the page before the browser loads its extension.
htmx.process(job);
