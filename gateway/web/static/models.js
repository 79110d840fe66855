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
  // The list comes with an answer of its own; a key that was in it and is not any more was revoked.
  if (secret) {
    const listed = document.getElementById(`key-${secret.dataset.secret}`);
    if (listed) secret.dataset.listed = "";
    else if ("listed" in secret.dataset) forget();
  }
  if (document.activeElement === document.body && !document.querySelector("dialog[open]"))
    document.getElementById("main").focus({ preventScroll: true });
});
