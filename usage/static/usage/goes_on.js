// Sends the rest of a long act, so that staff need not click for each part.
document.getElementById("goes-on").requestSubmit();
