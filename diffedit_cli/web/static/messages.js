// What the page says: errors, the state, notes, and the buttons that save.

import { words } from "./forms.js";

const $ = (id) => document.getElementById(id);

export function complain(problem) {
  console.debug(problem);
  $("alert-text").textContent = words(problem.message);
  $("alert-hint").textContent = words(problem.hint ?? "");
  $("alert").hidden = false;
  if (problem.status === 0) $("model").className = "lost";
}

export function say(text, isGood = false) {
  $("state").textContent = text;
  $("state").className = isGood ? "good" : "";
}

export const attempt = (act) => async (...given) => {
  $("alert").hidden = true;
  try {
    await act(...given);
  } catch (problem) {
    complain(problem);
  }
};

export const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const stem = (name) => name.replace(/\.[^.]*$/, "");
export const fileName = (text) => text.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 80) || "result";

export function saveButton(text, act, isMain = false) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: text, className: isMain ? "main" : "" });
  button.addEventListener("click", act);
  $("saves").append(button);
}

export const showNotices = (notices) =>
  $("notices").replaceChildren(...(notices ?? []).map((text) => Object.assign(document.createElement("li"), { textContent: words(text) })));
