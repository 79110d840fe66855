// Pages with API keys: hide a new key's secret after use, and keep focus when a list changes.

function forget() {
  document.getElementById("made")?.replaceChildren();
}

document.addEventListener("click", (event) => {
  if (event.target instanceof Element && event.target.closest("[data-forgets]")) {
    forget();
    document.getElementById("key-list").focus();
  }
});

// The browser may restore this page from its cache.
window.addEventListener("pagehide", forget);

document.addEventListener("htmx:after:swap", () => {
  const secret = document.querySelector("[data-secret]");
  // The list of keys updates separately. A key that is no longer in the list was revoked.
  if (secret) {
    const listed = document.getElementById(`key-${secret.dataset.secret}`);
    if (listed) secret.dataset.listed = "";
    else if ("listed" in secret.dataset) forget();
  }
  if (document.activeElement === document.body && !document.querySelector("dialog[open]"))
    document.getElementById("main").focus({ preventScroll: true });
});
