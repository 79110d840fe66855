// What the wizard does besides htmx: lists show what the server chose, and links open what they lead into.

const form = document.getElementById("wizard");

// The button by which an approval is on its way. What is asked for meanwhile would have the answer lost, and the job
// would start all the same: nothing else is sent, and nothing can be changed.
let approval = null;

// An answer to what has changed again since is not shown: the next one is on its way.
let changes = 0;
const changed = () => {
  changes += 1;
  form.setAttribute("aria-busy", "true");
  document.getElementById("revision").value = changes; // an older one is not kept after a newer
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
  // The page keeps no history in htmx, which would do this.
  if (ctx?.hx?.replaceurl) history.replaceState(null, "", ctx.hx.replaceurl);
  if (!approving(event) || ctx.hx?.redirect) return;
  form.inert = false;
  approval.removeAttribute("aria-busy");
  if (document.activeElement === document.body) approval.focus();
  approval = null;
});

// One sentence tells who does not see the page what it comes to, once nothing changed for a second.
const spoken = document.getElementById("wizard-status");
let silence = 0;
document.addEventListener("htmx:after:swap", () => {
  clearTimeout(silence);
  silence = setTimeout(() => {
    const now = document.getElementById("status-now").textContent;
    if (spoken.textContent !== now) spoken.textContent = now;
  }, 1000);
});

// A list that somebody has used does not follow its options' `selected` any more.
document.addEventListener("htmx:after:swap", () => {
  for (const list of form.querySelectorAll("select[data-chosen]"))
    if (list !== document.activeElement && list.value !== list.dataset.chosen) list.value = list.dataset.chosen;
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

// A page that the browser kept may show a draft that became a job meanwhile.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
