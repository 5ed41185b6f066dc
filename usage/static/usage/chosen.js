// Counts the bills chosen, in the text of the button that closes them.
const form = document.getElementById("to-close");
const button = form.querySelector("[data-label]");
form.addEventListener("change", () => {
  const chosen = form.querySelectorAll("[name=bill]:checked").length;
  button.value = button.dataset.label.replace("#", chosen);
});
