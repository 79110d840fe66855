// On every page: dialogs, notices, and times in the reader's time zone.

const MINUTE = 60, HOUR = 3600, DAY = 86400;
// Show the time zone, because readers of a screenshot may be in another one.
const MOMENT = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

function ago(moment) {
  const seconds = (moment - Date.now()) / 1000, size = Math.abs(seconds);
  if (size < 45) return seconds > 5 ? "in a moment" : "just now";
  if (size < HOUR) return relative.format(Math.round(seconds / MINUTE), "minute");
  if (size < DAY) return relative.format(Math.round(seconds / HOUR), "hour");
  return relative.format(Math.round(seconds / DAY), "day");
}

function sayTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.valueOf())) continue;
    const seconds = element.dataset.clock === "seconds" ? { second: "2-digit" } : {};
    const whole = moment.toLocaleString([], { ...MOMENT, ...seconds });
    const text = element.hasAttribute("data-clock") ? whole : ago(moment);
    if (element.textContent !== text) element.textContent = text;
    if (element.title !== whole) element.title = whole;
  }
}

// Browsers know the names of all languages.
const languages = new Intl.DisplayNames("en", { type: "language" });
function nameLanguages() {
  for (const element of document.querySelectorAll("[data-language]:not([title])")) {
    element.title = element.textContent;
    element.textContent = languages.of(element.title);
  }
}

export function notify(text, problem = false) {
  const notice = document.createElement("div");
  notice.className = problem ? "notice is-problem" : "notice";
  notice.setAttribute("role", problem ? "alert" : "status");
  const words = document.createElement("p");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "plain";
  close.dataset.dismiss = "";
  close.setAttribute("aria-label", "Dismiss");
  close.textContent = "×";
  notice.append(words, close);
  document.getElementById("notices").replaceChildren(notice);
  return notice;
}

export function csrfToken() {
  const headers = document.body.getAttribute("hx-headers:inherited");
  return headers ? JSON.parse(headers)["x-csrf-token"] : "";
}

// Make wide tables scrollable by keyboard.
function reachTables() {
  for (const wrap of document.querySelectorAll(".table-wrap")) {
    if (wrap.scrollWidth > wrap.clientWidth || wrap.scrollHeight > wrap.clientHeight) wrap.tabIndex = 0;
    else wrap.removeAttribute("tabindex");
  }
}

const copied = new WeakMap();  // the original label of a button, and its timer

async function copy(button) {
  const source = document.getElementById(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(source.value ?? source.textContent);
  } catch {  // no clipboard on plain http, or if the browser forbids it
    if (source.select) source.select();
    else getSelection().selectAllChildren(source);
    notify("The text is selected. Copy it with Ctrl+C or ⌘C. Browsers let pages copy only over https.");
    return;
  }
  const before = copied.get(button) ?? { text: button.textContent };
  clearTimeout(before.timer);
  button.textContent = "Copied";
  before.timer = setTimeout(() => {
    button.textContent = before.text;
    copied.delete(button);
  }, 1500);
  copied.set(button, before);
}

document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target : null;
  const opener = target?.closest("[data-opens]");
  if (opener) document.getElementById(opener.dataset.opens)?.showModal();
  const closer = target?.closest("[data-closes]");
  if (closer) closer.closest("dialog")?.close();
  target?.closest("[data-dismiss]")?.closest(".notice")?.remove();
  const copier = target?.closest("[data-copies]");
  if (copier) copy(copier);
  for (const menu of document.querySelectorAll("details.menu[open]"))
    if (!menu.contains(target)) menu.open = false;
});

// A browser sends this event only for a form whose fields are valid.
document.addEventListener("submit", (event) => {
  if (event.target.matches("[data-closes-dialog]")) event.target.closest("dialog")?.close();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// The notice of a refused form, and the mark of its field, last until the form succeeds or changes.
let refused = null;
const formOf = (element) => element?.form ?? element?.closest("form");
function markRefused(form) {
  const name = document.querySelector("#notices [data-field]")?.dataset.field;
  const field = name ? form?.elements[name] : null;
  if (!(field instanceof Element) || field.type === "hidden") return;
  field.setAttribute("aria-invalid", "true");
  field.addEventListener("input", () => field.removeAttribute("aria-invalid"), { once: true });
  field.focus();
}
function forgetRefusal() {
  for (const each of document.querySelectorAll("#notices .notice.is-problem")) each.remove();
  for (const each of refused?.elements ?? []) each.removeAttribute("aria-invalid");
  refused = null;
}

// Show one notice per outage, and remove it at the first response.
let unreachable = false;
function missed() {
  if (!unreachable) notify("EcoLink is unreachable. Try again in a moment.", true).dataset.passing = "";
  unreachable = true;
}
document.addEventListener("htmx:error", missed);
document.addEventListener("htmx:after:request", (event) => {
  const { response, hx } = event.detail.ctx;
  // EcoLink sends notices with status 200, so a proxy sent this error.
  if (response.status >= 500) return missed();
  if (response.status >= 400) return notify(`The request did not reach EcoLink (${response.status}). Try again.`, true);
  unreachable = false;
  const source = event.detail.ctx.sourceElement, form = formOf(source);
  if (hx.retarget === "#notices") refused = form;
  else if (form && form === refused && source.matches("form, button")) forgetRefusal();  // no poll
  if (hx.retarget !== "#notices") for (const each of document.querySelectorAll("#notices [data-passing]")) each.remove();
});
// htmx would do this, but the pages disable its history.
document.addEventListener("htmx:finally:request", (event) => {
  const address = event.detail.ctx?.hx?.replaceurl;
  if (address) history.replaceState(null, "", address);
});
document.addEventListener("htmx:after:swap", (event) => {
  if (event.detail?.ctx?.hx?.retarget === "#notices") markRefused(refused);
});
document.addEventListener("htmx:after:swap", () => { sayTimes(document); nameLanguages(); reachTables(); });
window.addEventListener("resize", reachTables);

sayTimes(document);
nameLanguages();
reachTables();
setInterval(() => sayTimes(document), 15000);
