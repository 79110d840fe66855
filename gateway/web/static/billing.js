// Preset amounts of the top-up form.

document.addEventListener("click", (event) => {
  const preset = event.target instanceof Element ? event.target.closest("[data-amount]") : null;
  if (!preset) return;
  const field = document.getElementById("amount");
  field.value = preset.dataset.amount;
  field.focus();
});
