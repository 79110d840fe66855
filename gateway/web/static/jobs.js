// Limit the comparison to two jobs.

const form = document.getElementById("compare");
const chosen = [];

function say() {
  for (let n = chosen.length - 1; n >= 0; n--) if (!chosen[n].isConnected) chosen.splice(n, 1);
  document.getElementById("compare-button").disabled = chosen.length !== 2;
  for (const box of form.querySelectorAll("input[name=jobs]")) box.disabled = chosen.length === 2 && !box.checked;
  const words = ["Choose two jobs to compare their loss curves.", "Choose one more job.", "You chose two jobs, which is the maximum. Clear one to choose another."];
  const help = document.getElementById("compare-help");
  help.textContent = words[chosen.length];
  help.dataset.chosen = chosen.length;
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
  // A restored page keeps its choices.
  for (const box of form.querySelectorAll("input[name=jobs]:checked")) {
    if (chosen.length < 2) chosen.push(box);
    else box.checked = false;
  }
  document.addEventListener("htmx:after:swap", say);
  say();
}
