"use strict";
// What the scripts of all pages share.

// ask puts a question, and does what is to be done after a yes.
function ask(question, verb, yes) {
  const dialog = document.getElementById("ask");
  document.getElementById("question").textContent = question;
  document.getElementById("yes").textContent = verb;
  dialog.onclose = () => { if (dialog.returnValue === "yes") yes(); };
  dialog.returnValue = "";
  dialog.showModal();
}
