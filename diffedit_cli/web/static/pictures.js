// The open pictures of this tab: each with what is painted in it, its found area and its last result.

import * as api from "./api.js";
import { Painting, readMask } from "./paint.js";

const MOST = 8; // as many as the server keeps

export class Pictures {
  // on: {change()}: called when the list or the current picture has changed.
  constructor(on) {
    this.on = on;
    this.list = [];
    this.current = null;
  }

  async open(blob, name) {
    this.add(await api.sendPicture(blob, name));
    return this.show(this.list.at(-1));
  }

  async reopen(ids) {
    for (const id of ids) {
      const about = await api.aboutPicture(id).catch(() => null);
      if (about) await this.show(this.add(about));
    }
  }

  add(about) {
    const { width, height } = about;
    const one = { ...about, url: "", isOwn: false, found: null, mask: null, result: null };
    one.paintings = { found: new Painting(width, height), own: new Painting(width, height) };
    one.areas = { found: {}, own: {} };
    this.list.push(one);
    while (this.list.length > MOST) URL.revokeObjectURL(this.list.shift().url);
    return one;
  }

  async show(one) {
    one.url = URL.createObjectURL(await api.pictureBlob(one.id));
    this.select(one);
    return one;
  }

  select(one) {
    this.current = one;
    this.on.change();
  }

  byId(id) {
    return this.list.find((one) => one.id === id);
  }
}

export const paintingOf = (one) => one.paintings[one.isOwn ? "own" : "found"];

// Sends what is painted, once it has changed; the names that the server knows it by.
export async function sendAreas(one) {
  const which = one.isOwn ? "own" : "found", areas = paintingOf(one).areas(one.isOwn);
  const ids = {};
  for (const [name, blob] of Object.entries(areas)) if (blob) ids[name] = await api.sendArea(one.id, blob);
  one.areas[which] = ids;
  return ids;
}

export const areasOf = (one) => one.areas[one.isOwn ? "own" : "found"];

export async function loadMask(one, file) {
  paintingOf(one).fill(await readMask(file));
}

// A small picture for the history.
export async function thumbOf(blob, side = 128) {
  const bitmap = await createImageBitmap(blob);
  const scale = side / Math.min(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const w = bitmap.width * scale, h = bitmap.height * scale;
  canvas.getContext("2d").drawImage(bitmap, (side - w) / 2, (side - h) / 2, w, h);
  return URL.createObjectURL(await new Promise((resolve) => canvas.toBlob(resolve)));
}
