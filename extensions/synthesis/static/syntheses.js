// The form of a synthesis: the choices that suit only large models follow the chosen model.

const choices = document.querySelectorAll("[data-for-large]");

// A choice that the user made stays.
for (const each of choices) each.addEventListener("change", () => { each.dataset.chosen = ""; });

document.getElementById("generator")?.addEventListener("change", (event) => {
  const small = event.target.selectedOptions[0]?.hasAttribute("data-small") ?? false;
  for (const each of choices) if (!("chosen" in each.dataset)) each.checked = !small;
});
