// The wizard's behavior in addition to htmx: stale responses, approvals, lists, and links to problems.

const form = document.getElementById("wizard");

// The button of a pending approval. Another request would discard the response although the job starts. Until the
// response arrives, the page sends nothing else, and the form is inert.
let approval = null;

// Ignore a response to an older state of the form. The response to the newest state follows.
let changes = 0;
const changed = () => {
  changes += 1;
  form.setAttribute("aria-busy", "true");
  document.getElementById("revision").value = changes; // the server does not save an older revision after a newer one
};
for (const kind of ["input", "change"]) form.addEventListener(kind, changed, { capture: true });
form.addEventListener("click", (event) => {
  if (event.target instanceof Element && event.target.closest("button[hx-post]")) changed();
}, { capture: true });
document.addEventListener("htmx:config:request", (event) => {
  event.detail.ctx.changes = changes;
  if (approval) event.preventDefault();
});
document.addEventListener("htmx:before:swap", (event) => {
  const sent = event.detail.ctx?.changes;
  if (sent !== undefined && sent !== changes) event.preventDefault();
  else form.removeAttribute("aria-busy");
});

const approving = (event) => {
  const source = event.detail.ctx?.sourceElement;
  return source instanceof Element && source.matches(".approve") ? source : null;
};
document.addEventListener("htmx:before:request", (event) => {
  approval = approving(event) ?? approval;
  approval?.setAttribute("aria-busy", "true");
  form.inert = approval !== null;
});
document.addEventListener("htmx:finally:request", (event) => {
  const { ctx } = event.detail;
  if (ctx?.changes === changes) form.removeAttribute("aria-busy");
  if (!approving(event) || ctx.hx?.redirect) return;
  form.inert = false;
  approval.removeAttribute("aria-busy");
  if (document.activeElement === document.body) approval.focus();
  approval = null;
});

// Screen readers hear a summary once nothing has changed for a second.
const spoken = document.getElementById("wizard-status");
let silence = 0;
document.addEventListener("htmx:after:swap", () => {
  clearTimeout(silence);
  silence = setTimeout(() => {
    const now = document.getElementById("status-now").textContent;
    if (spoken.textContent !== now) spoken.textContent = now;
  }, 1000);
});

// After the user has changed a list, the browser ignores the `selected` attributes of its options.
document.addEventListener("htmx:after:swap", () => {
  for (const list of form.querySelectorAll("select[data-chosen]"))
    if (list !== document.activeElement && list.value !== list.dataset.chosen) list.value = list.dataset.chosen;
  // Likewise, a field that the user has changed keeps its entry. A disabled one must show the value of the response.
  for (const field of form.querySelectorAll("input[disabled]"))
    Object.assign(field, { value: field.defaultValue, checked: field.defaultChecked });
});

document.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest('#gates a[href^="#"]') : null;
  const field = link && document.getElementById(link.hash.slice(1));
  if (!field) return;
  event.preventDefault();
  const folded = field.closest("details");
  if (folded) folded.open = true;
  (field.matches("fieldset") ? field.querySelector("input") : field).focus();
});

// A page from the browser's cache may show a draft that has become a job.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
