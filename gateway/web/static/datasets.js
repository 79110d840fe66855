// Uploads: the page lists the chosen files, lets the user rename them, and sends them one by one.

import { csrfToken, notify } from "./app.js";

const place = document.getElementById("upload");
const form = document.getElementById("upload-form");
const chooser = document.getElementById("files");
const queue = document.getElementById("queue");
const template = document.getElementById("queued");

const uploads = new Set();

function written(size) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; size >= 999.5 && unit < units.length - 1; unit++) size /= 1000;
  return `${size.toFixed(unit === 0 || size >= 99.5 ? 0 : 1)} ${units[unit]}`;
}

// Some messages of the API have no capital letter and no full stop.
function sentence(message) {
  return message.charAt(0).toUpperCase() + message.slice(1) + (/[.!?]$/.test(message) ? "" : ".");
}

function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16)).join("-");
}

// The columns that the user entered, as JSON, or null. Without them, EcoLink guesses.
function chosenColumns() {
  const entered = [...form.querySelectorAll("[data-column]")].map((each) => [each.dataset.column, each.value.trim()]);
  const columns = entered.filter(([, name]) => name);
  return columns.length ? JSON.stringify(Object.fromEntries(columns)) : null;
}

// Another choice of columns makes another dataset, so a failed upload gets a new key.
form.addEventListener("input", (event) => {
  if (event.target.dataset.column) for (const upload of uploads) upload.key = newKey();
});

// One file. Its state is waiting, sending, sent, refused, failed or cancelled. The user can send only a failed file again.
class Upload {
  constructor(file) {
    this.file = file;
    this.key = newKey();
    this.element = template.content.firstElementChild.cloneNode(true);
    this.name = this.element.querySelector("input");
    this.bar = this.element.querySelector("progress");
    this.said = this.element.querySelector(".queued-said");
    this.button = this.element.querySelector("button");
    this.name.value = file.name.replace(/\.[^.]+$/, "").trim().slice(0, 200) || file.name.slice(0, 200);
    this.element.querySelector("code").textContent = file.name;
    this.element.querySelector(".muted").textContent = written(file.size);
    this.bar.setAttribute("aria-label", `Upload of ${file.name}`);
    this.name.addEventListener("input", () => {
      this.key = newKey();
      this.name.removeAttribute("aria-invalid");
    });
    this.button.addEventListener("click", () => this.act());
    this.become("waiting");
    const problem = this.problem();
    if (problem) this.become("refused", problem);
  }

  problem() {
    if (this.file.size > Number(place.dataset.limit)) {
      return `This file has ${(this.file.size / 2 ** 20).toFixed(1)} MiB. The limit is ${place.dataset.limitText}. Split it into several files.`;
    }
    return this.file.size === 0 ? "This file is empty. Choose another one." : "";
  }

  become(state, words = "") {
    this.state = state;
    this.element.className = `queued is-${state}`;
    this.name.disabled = state === "sending" || state === "sent" || state === "refused" || state === "cancelled";
    this.bar.hidden = state !== "sending";
    this.said.hidden = !words;
    this.said.textContent = words;
    this.element.dataset.state = state;
    const what = { sending: "Cancel", failed: "Remove", sent: "Dismiss" }[state] ?? "Remove";
    this.button.textContent = what;
    this.button.setAttribute("aria-label", `${what} ${this.file.name}`);
    if (state === "refused" || state === "failed") this.element.className = "queued is-refused";
    showActions();
  }

  act() {
    if (this.state === "sending") return this.request.abort();
    const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
    uploads.delete(this);
    this.element.remove();
    showActions();
    (next?.querySelector("button") ?? chooser).focus();
  }

  send() {
    const name = this.name.value.trim();
    if (!name) {
      this.name.setAttribute("aria-invalid", "true");
      this.become("failed", "The name is empty. Enter a name.");
      this.name.focus();
      return Promise.resolve();
    }
    this.become("sending", "Starting…");
    return new Promise((resolve) => {
      const request = this.request = new XMLHttpRequest();
      const keep = document.getElementById("keep-duplicates").checked;
      const query = new URLSearchParams({ name, keep_duplicates: keep });
      const columns = chosenColumns();
      if (columns) query.set("columns", columns);
      if (place.dataset.parent) query.set("parent", place.dataset.parent);
      request.open("POST", `${place.dataset.path}?${query}`);
      request.setRequestHeader("content-type", "application/octet-stream");
      request.setRequestHeader("idempotency-key", this.key);
      request.setRequestHeader("x-csrf-token", csrfToken());
      request.upload.onprogress = (event) => this.show(event.loaded);
      request.onload = () => this.answered(request);
      request.onerror = () => this.become("failed", "EcoLink is unreachable or stopped the upload. Try again.");
      request.onabort = () => this.become("cancelled", "Cancelled. EcoLink kept no part of the file. To upload it, choose the file again.");
      request.onloadend = resolve;
      request.send(this.file);
    });
  }

  show(loaded) {
    const whole = this.file.size;
    this.bar.value = loaded / whole;
    this.said.textContent = loaded < whole
      ? `${written(loaded)} of ${written(whole)}, ${Math.floor((100 * loaded) / whole)}%`
      : "Sent. EcoLink is storing the file…";
  }

  answered(request) {
    if (request.status === 401) return location.assign("/sign-in?next=/datasets");
    let answer = {};
    try { answer = JSON.parse(request.responseText); } catch { /* a response of a proxy is not JSON */ }
    if (request.status !== 202) {
      this.become("failed", sentence(answer.error?.message ?? `The upload failed with status ${request.status}. Try again.`));
      return undefined;
    }
    this.dataset = answer.id;
    this.become("sent", "Uploaded. Validating: ");
    const link = document.createElement("a");
    link.href = `/datasets/${answer.id}`;
    link.textContent = `open ${answer.name}`;
    this.link = link;
    this.said.append(link, ".");
    return undefined;
  }
}

// Copy the result of a validation from the table to its upload.
function showVerdicts() {
  for (const upload of uploads) {
    const status = upload.dataset && document.getElementById(`dataset-${upload.dataset}`)?.dataset.status;
    if (!status || status === upload.verdict || status === "validating") continue;
    upload.verdict = status;
    const rejected = status === "rejected";
    upload.element.className = `queued ${rejected ? "is-refused" : "is-ready"}`;
    upload.said.replaceChildren(rejected ? "Rejected: " : "Ready to train: ", upload.link, ".");
    announce(`${upload.file.name}: ${upload.said.textContent}`);
  }
}

new MutationObserver(showVerdicts).observe(document.querySelector("main") ?? document.body, {
  attributes: true, attributeFilter: ["data-status"], childList: true, subtree: true,
});

function toSend() {
  return [...uploads].filter((each) => each.state === "waiting" || each.state === "failed");
}

function showActions() {
  const waiting = toSend().length;
  const sending = [...uploads].some((each) => each.state === "sending");
  document.getElementById("upload-actions").hidden = waiting === 0 || sending;
  document.getElementById("send").textContent = waiting === 1 ? "Upload" : `Upload ${waiting} files`;
}

function add(files) {
  const added = [];
  for (const file of files) {
    const upload = new Upload(file);
    uploads.add(upload);
    queue.append(upload.element);
    added.push(upload);
  }
  showActions();
  added[0]?.name.disabled === false ? added[0].name.select() : added[0]?.button.focus();
}

function announce(words) {
  document.getElementById("upload-said").textContent = words;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  for (const upload of toSend()) {
    if (!uploads.has(upload)) continue;
    await upload.send();
    announce(`${upload.file.name}: ${upload.said.textContent}`);
    if (upload.state === "sent") {
      window.htmx.ajax("GET", document.getElementById("datasets").dataset.url, { target: "#datasets", swap: "outerMorph" });
    }
  }
  // The focused button was removed.
  if (document.activeElement === document.body) [...uploads].find((each) => each.link)?.link.focus();
});

chooser.addEventListener("change", () => {
  add(chooser.files);
  chooser.value = "";
});

// Accept dropped files anywhere on the page. Otherwise, the browser would leave the page to open them.
let over = 0;

function carriesFiles(event) {
  return event.dataTransfer?.types.includes("Files");
}

document.addEventListener("dragenter", (event) => {
  if (carriesFiles(event)) place.classList.toggle("is-over", ++over > 0);
});
document.addEventListener("dragleave", (event) => {
  if (carriesFiles(event)) place.classList.toggle("is-over", --over > 0);
});
document.addEventListener("dragover", (event) => {
  if (carriesFiles(event)) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  over = 0;
  place.classList.remove("is-over");
  if (!place.checkVisibility()) return; // the key of the session cannot upload
  const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  const folders = items.filter((item) => item.webkitGetAsEntry?.()?.isDirectory);
  if (folders.length) notify("EcoLink does not accept folders. Drop the files in the folder.", true);
  add(items.filter((item) => !folders.includes(item)).map((item) => item.getAsFile()).filter(Boolean));
});

window.addEventListener("beforeunload", (event) => {
  if ([...uploads].some((each) => each.state === "sending")) event.preventDefault();
});
