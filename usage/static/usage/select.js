// Select2 calls what it shows a text box without a name; without that role it names the select.
// Select2 itself is set up when jQuery is ready, which may be after the page is loaded.
document.addEventListener("DOMContentLoaded", () => django.jQuery(() => {
  for (const shown of document.querySelectorAll(".select2-selection__rendered")) {
    shown.removeAttribute("role");
    shown.removeAttribute("aria-readonly");
  }
}));
