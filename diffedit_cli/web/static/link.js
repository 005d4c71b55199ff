// The settings as a link, and the colour theme.

import { attempt, say } from "./messages.js";

export const share = attempt(async (changes) => {
  const text = JSON.stringify(changes);
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  const link = `${location.origin}/#settings=${btoa(bytes).replaceAll("+", "-").replaceAll("/", "_")}`;
  await navigator.clipboard.writeText(link).catch(() => prompt("Settings link", link));
  say("The link holds these settings, not the picture. Anyone can open it in their own diffedit serve.");
});

export function readLink(text) {
  const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes));
}

export function theme(next) {
  const names = { "": "Auto", light: "Light", dark: "Dark" };
  document.documentElement.style.colorScheme = next || "light dark";
  document.getElementById("theme").textContent = names[next];
  document.getElementById("theme").setAttribute("aria-label", `Colour theme: ${next || "automatic"}`);
  localStorage.setItem("diffedit-theme", next);
}
