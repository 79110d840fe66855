// Two jobs are chosen to be compared; while they are, no third can be.

const form = document.getElementById("compare");
const chosen = [];

function say() {
  for (let n = chosen.length - 1; n >= 0; n--) if (!chosen[n].isConnected) chosen.splice(n, 1);
  document.getElementById("compare-button").disabled = chosen.length !== 2;
  for (const box of form.querySelectorAll("input[name=jobs]")) box.disabled = chosen.length === 2 && !box.checked;
  const words = ["Choose two jobs to compare their curves.", "Choose one more.", "Two jobs are chosen, which is the limit. Untick one to choose another."];
  document.getElementById("compare-help").textContent = words[chosen.length];
}

form?.addEventListener("change", (event) => {
  const box = event.target;
  if (box.name !== "jobs") return;
  const place = chosen.indexOf(box);
  if (place >= 0) chosen.splice(place, 1);
  if (box.checked) chosen.push(box);
  say();
});

if (form) {
  // A browser that comes back keeps what was chosen.
  for (const box of form.querySelectorAll("input[name=jobs]:checked")) {
    if (chosen.length < 2) chosen.push(box);
    else box.checked = false;
  }
  document.addEventListener("htmx:after:swap", say);
  say();
}
