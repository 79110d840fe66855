// The pages of webhooks: hide a new secret after use, and keep focus when a part changes.

function forget() {
  for (const secret of document.querySelectorAll("[data-secret]")) secret.remove();
}

document.addEventListener("click", (event) => {
  if (event.target instanceof Element && event.target.closest("[data-forgets]")) {
    forget();
    document.getElementById("main").focus({ preventScroll: true });
  }
});

// The browser may restore this page from its cache.
window.addEventListener("pagehide", forget);

document.addEventListener("htmx:after:swap", () => {
  if (document.activeElement === document.body && !document.querySelector("dialog[open]"))
    document.getElementById("main").focus({ preventScroll: true });
});
