// The page of models: a new key's secret is forgotten, and focus is not lost with what it was on.

function forget() {
  document.getElementById("made")?.replaceChildren();
}

document.addEventListener("click", (event) => {
  if (event.target instanceof Element && event.target.closest("[data-forgets]")) {
    forget();
    document.getElementById("key-list").focus();
  }
});

// A page that is left may be shown again as it was.
window.addEventListener("pagehide", forget);

document.addEventListener("htmx:after:swap", () => {
  const secret = document.querySelector("[data-secret]");
  if (secret && !document.getElementById(`key-${secret.dataset.secret}`)) forget();
  if (document.activeElement === document.body && !document.querySelector("dialog[open]"))
    document.getElementById("main").focus({ preventScroll: true });
});
