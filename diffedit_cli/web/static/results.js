// What there is to say of a result, and its files.

import * as api from "./api.js";
import { attempt, fileName, percent, say, saveButton, showNotices, stem } from "./messages.js";
import { paintingOf } from "./pictures.js";

const $ = (id) => document.getElementById(id);

// on: {one, play(), further(file)}: its picture if that is open, and what the buttons do.
export function showFacts({ job, picture }, on) {
  const facts = job.facts, parts = [];
  if (facts.changed_outside !== undefined) parts.push(`${facts.changed_outside} pixels changed outside the area`, `which covers ${percent(facts.coverage)}`);
  if (facts.frames) parts.push(`${facts.frames} frames`);
  if (facts.settings.seed !== undefined) parts.push(`seed ${[...new Set([facts.settings.seed].flat())].join(", ")}`);
  const text = parts.join(", ");
  say(`${text[0].toUpperCase()}${text.slice(1)}. It took ${job.seconds.toFixed(1)} s.`, facts.changed_outside === 0 || facts.changed_outside === undefined);
  showNotices(facts.notices);
  $("saves").replaceChildren();
  const name = fileName(facts.suggestion), film = job.about.format;
  const file = (which) => async () => api.save(await api.resultFile(job.id, which), `${name}-${which}`);
  if (job.kind !== "interpolate") saveButton("Save picture", () => api.save(picture, `${name}.png`), true);
  if (film || job.kind === "interpolate") {
    saveButton("Play film", on.play);
    saveButton("Save film", attempt(file(`film${film ?? ".mp4"}`)));
  }
  if (["edit", "remove"].includes(job.kind)) {
    saveButton("Save mask", attempt(file("mask.png")));
    if (on.one && !paintingOf(on.one).isEmpty) saveButton("Save painting", () => savePainting(on.one));
  }
  if (["edit", "remove", "generate"].includes(job.kind)) saveButton("Edit this further", () => on.further(new File([picture], `${name}.png`)));
}

function savePainting(one) {
  for (const [name, blob] of Object.entries(paintingOf(one).areas(one.isOwn)))
    if (blob) api.save(blob, `${stem(one.name)}-${{ use: "mask", add: "added", subtract: "taken-away" }[name]}.png`);
}

// Lays the film into the stage: a video, or a moving picture.
export async function playFilm({ job }) {
  const format = job.about.format ?? ".mp4", url = URL.createObjectURL(await api.resultFile(job.id, `film${format}`));
  if (format === ".mp4") {
    $("film").src = url;
    $("film").dataset.has = "yes";
    await $("film").play().catch(() => {}); // the controls are there
  } else {
    $("after").src = url;
    $("after").className = "whole";
  }
}
