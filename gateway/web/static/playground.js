// The playground: sends a message to a model and its base model, and streams both responses.

import { csrfToken, notify } from "./app.js";

const TRIES = 60, PATIENCE_SECONDS = 1;
const at = (id) => document.getElementById(id);
const composer = at("composer"), settings = at("settings"), message = at("message");
const turns = at("turns"), told = at("told");
const said = new Map(); // messages of the conversation, by model
let running = null; // AbortController of the current requests
let conversation = 0; // number of the conversation; responses of earlier conversations are ignored

class Refused extends Error {}

const chosen = () => document.querySelector("#chosen .chosen");

function showState() {
  const state = chosen();
  at("send").disabled = running !== null || !("ready" in state.dataset);
  at("stop").hidden = running === null;
  at("clear").hidden = running !== null || turns.childElementCount === 0;
}

async function refresh() {
  await window.htmx.ajax("GET", `/models/playground/chosen?model=${encodeURIComponent(at("model").value)}`,
    { target: "#chosen", swap: "innerMorph" });
  showState();
}

const pause = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, seconds * 1000);
  signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});

function body(model, messages) {
  const system = at("system").value.trim(), seed = at("seed").value;
  return {
    model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
    temperature: Number(at("temperature").value),
    max_tokens: Number(at("max_tokens").value),
    ...(seed === "" ? {} : { seed: Number(seed) }),
    stream: true,
    stream_options: { include_usage: true },
  };
}

// Yields the server-sent events of a response, up to [DONE].
async function* pieces(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused("The response ended early. Try again.");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      if (event === "data: [DONE]") return;
      const piece = JSON.parse(event.slice(6));
      if (piece.error) throw new Refused(piece.error.message, { cause: piece.error });
      yield piece;
    }
  }
}

// Yields the chunks of a response. Retries while the model loads or the queue is full.
async function* ask(model, messages, signal, wait) {
  for (let tries = 1; ; tries++) {
    const response = await fetch("/models/playground/say", {
      method: "POST",
      headers: { "content-type": "application/json", "x-csrf-token": csrfToken() },
      body: JSON.stringify(body(model, messages)),
      signal,
    });
    if (response.redirected || response.status === 403) throw new Refused("This page is outdated. Reload it.");
    if (response.status === 413) throw new Refused("This conversation is too long. Clear it to start a new one.");
    if (!response.ok) throw new Refused("The request failed. Try again.");
    try {
      yield* pieces(response);
      return;
    } catch (error) {
      if (!error.cause?.passing || tries >= TRIES) throw error;
      wait(error.message);
      await pause(error.cause.retry_after ?? PATIENCE_SECONDS, signal);
    }
  }
}

function figures(start, usage, reason) {
  const seconds = (performance.now() - start) / 1000, tokens = usage?.completion_tokens;
  const ended = { length: ", max tokens reached", stopped: ", stopped" }[reason] ?? "";
  if (tokens === undefined) return `${seconds.toFixed(1)} s${ended}`;
  const speed = tokens > 1 ? ` (${Number((tokens / Math.max(seconds, 0.05)).toPrecision(2)).toLocaleString("en")} tokens/s)` : "";
  return `${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"} in ${seconds.toFixed(1)} s${speed}${ended}`;
}

async function answer(place, model, messages, signal) {
  const text = place.querySelector("[data-text]"), line = place.querySelector("[data-figures]");
  const start = performance.now();
  let usage = null, reason = null, content = "";
  const show = (words) => { line.textContent = words; };
  const finish = (state, words) => { place.dataset.state = state; show(words); };
  place.setAttribute("aria-busy", "true");
  show("…");
  try {
    for await (const piece of ask(model, messages, signal, show)) {
      usage = piece.usage ?? usage;
      const [choice] = piece.choices;
      if (!choice) continue;
      reason = choice.finish_reason ?? reason;
      const grown = choice.delta.content?.replaceAll("\0", ""); // EcoLink rejects NUL in messages
      if (!grown) continue;
      content += grown;
      following(() => { text.append(grown); show(""); });
    }
    finish("done", figures(start, usage, reason));
  } catch (error) {
    const stopped = signal.aborted;
    if (stopped) finish("stopped", figures(start, usage, "stopped"));
    else finish("failed", error instanceof Refused ? error.message : "EcoLink is unreachable. Try again in a moment.");
    line.classList.toggle("field-problem", !stopped);
  } finally {
    place.removeAttribute("aria-busy");
  }
  return content;
}

// Keeps the composer in view while responses above it grow.
function following(change) {
  const inSight = composer.getBoundingClientRect().bottom < window.innerHeight + 100;
  change();
  if (inSight) composer.scrollIntoView({ block: "end" });
}

function begin(words, models) {
  const turn = at("turn").content.cloneNode(true).firstElementChild;
  turn.querySelector("[data-said]").textContent = words;
  const answers = turn.querySelector(".answers");
  answers.classList.toggle("both", models.length > 1);
  const places = models.map((model, index) => {
    const place = at("answer").content.cloneNode(true).firstElementChild;
    place.querySelector("[data-kind]").textContent = index === models.length - 1 && models.length > 1 ? "Adapter" : "Base";
    place.querySelector("[data-model]").textContent = model;
    answers.append(place);
    return place;
  });
  following(() => turns.append(turn));
  return places;
}

async function send() {
  const words = message.value.trim();
  if (running || !words || !composer.reportValidity() || !settings.reportValidity()) return;
  const mine = running = new AbortController(), begun = conversation;
  showState();
  try {
    await refresh();
    if (begun !== conversation) {
      await refresh(); // the first refresh may have shown the previous model
      return;
    }
    const state = chosen();
    if (!("ready" in state.dataset)) {
      told.textContent = "The model is not deployed.";
      return;
    }
    const models = JSON.parse(state.dataset.asked), places = begin(words, models);
    message.value = "";
    told.textContent = models.length > 1 ? "Both models are responding." : "The model is responding.";
    await Promise.all(models.map(async (model, index) => {
      const messages = said.get(model) ?? [], next = [...messages, { role: "user", content: words }];
      const content = await answer(places[index], model, next, mine.signal);
      // A message without a response is not part of the conversation.
      if (content && begun === conversation) said.set(model, [...next, { role: "assistant", content }]);
    }));
    if (begun === conversation) told.textContent = places.map((place, index) =>
      `${models[index]}: ${place.querySelector("[data-figures]").textContent}.`).join(" ");
  } finally {
    if (running === mine) running = null;
    showState();
  }
}

function clear() {
  conversation += 1;
  running?.abort();
  running = null;
  said.clear();
  turns.replaceChildren();
  told.textContent = "Conversation cleared.";
  showState();
  message.focus();
}

composer.addEventListener("submit", (event) => { event.preventDefault(); send(); });
settings.addEventListener("submit", (event) => { event.preventDefault(); send(); });
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!at("send").disabled) send();
});
at("stop").addEventListener("click", () => { running?.abort(); message.focus(); });
at("clear").addEventListener("click", clear);
at("model").addEventListener("change", () => {
  history.replaceState(null, "", `/models/playground?model=${encodeURIComponent(at("model").value)}`);
  if (turns.childElementCount === 0 && running === null) return;
  clear();
  notify("You changed the model. The conversation starts again.");
});
document.addEventListener("htmx:after:swap", showState);
window.addEventListener("pagehide", () => running?.abort());
showState();
