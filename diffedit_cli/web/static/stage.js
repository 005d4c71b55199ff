// The picture in the middle: its layers, the mask drawn over it, the brush, the zoom, and the wipe.

const $ = (id) => document.getElementById(id);
const TINT = [255, 29, 143];
const MOST_ZOOM = 16;

export class Stage {
  // on: {stroke(), change()}: called after a stroke has ended.
  constructor(on) {
    this.on = on;
    this.zoom = 1;
    this.view = "picture";
    this.tool = "add";
    this.brush = 6; // share of the shorter side, in percent
    this.cursor = [0.5, 0.5];
    this.painting = null;
    this.mask = null; // a bitmap: white is the mask
    this.pointer = null;
    new ResizeObserver(() => this.layout()).observe($("viewport"));
    this.listen();
  }

  setPicture(url, width, height, painting, name) {
    Object.assign(this, { width, height, painting, mask: null });
    $("before").src = url;
    $("before").alt = name;
    $("empty").hidden = true;
    $("stage").hidden = false;
    this.layout();
  }

  empty() {
    $("stage").hidden = true;
    $("empty").hidden = false;
    this.width = 0;
  }

  layout() {
    if (!this.width) return;
    const area = $("viewport"), style = getComputedStyle(area);
    const room = [area.clientWidth - 2 * parseFloat(style.paddingLeft), area.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom)];
    this.fit = Math.max(0.02, Math.min(room[0] / this.width, room[1] / this.height, 8));
    const scale = this.fit * this.zoom;
    $("stage").style.width = `${Math.floor(this.width * scale)}px`;
    $("stage").style.height = `${Math.floor(this.height * scale)}px`;
    this.draw();
  }

  setZoom(zoom, at = [0.5, 0.5]) {
    const area = $("viewport"), before = this.zoom;
    this.zoom = Math.min(MOST_ZOOM, Math.max(1, zoom));
    this.layout();
    const growth = this.zoom / before - 1;
    area.scrollLeft += growth * (area.scrollLeft + area.clientWidth * at[0]);
    area.scrollTop += growth * (area.scrollTop + area.clientHeight * at[1]);
  }

  // Which layers are seen: the picture, the heat over it, the mask over it, or the result with its wipe.
  setView(view) {
    this.view = view;
    const isResult = view === "result", hasFilm = isResult && $("film").dataset.has === "yes";
    $("heat").hidden = view !== "heat";
    $("overlay").hidden = isResult;
    $("ring").hidden = true;
    for (const id of ["after", "wipe", "wipe-line"]) $(id).hidden = !isResult || hasFilm || (id !== "after" && $("after").className === "whole");
    $("film").hidden = !hasFilm;
    this.draw();
  }

  setMask(bitmap) {
    this.mask = bitmap;
    this.draw();
  }

  setBrush(percent) {
    this.brush = Math.min(30, Math.max(0.5, percent));
    $("brush").value = this.brush;
    $("brush-value").textContent = `${Math.round(this.brushSize)} px`;
    this.placeRing();
  }

  get brushSize() {
    return (this.brush / 100) * Math.min(this.width || 512, this.height || 512);
  }

  setTool(tool) {
    this.tool = tool;
    $("ring").classList.toggle("subtract", tool === "subtract");
    for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === tool);
  }

  // The mask as a tint with an outline in black and white, which any background shows.
  draw() {
    const canvas = $("overlay");
    if (!this.width || canvas.hidden) return;
    const scale = Math.min(devicePixelRatio * this.fit * this.zoom, 2048 / Math.max(this.width, this.height));
    const w = Math.max(1, Math.round(this.width * scale)), h = Math.max(1, Math.round(this.height * scale));
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    const layer = canvas.getContext("2d", { willReadFrequently: true });
    layer.clearRect(0, 0, w, h);
    if (this.view === "mask" && this.mask) {
      layer.drawImage(this.mask, 0, 0, w, h);
      const data = layer.getImageData(0, 0, w, h);
      tint(data, w, h);
      layer.putImageData(data, 0, 0);
    }
    if (this.isStroking && this.painting) this.drawStroke(layer, w, h);
  }

  // While a stroke is drawn the server's answer is not there yet.
  drawStroke(layer, w, h) {
    const source = (this.tool === "add" ? this.painting.added : this.painting.taken).canvas;
    const colour = document.createElement("canvas");
    Object.assign(colour, { width: w, height: h });
    const fill = colour.getContext("2d");
    fill.drawImage(source, 0, 0, w, h);
    fill.globalCompositeOperation = "source-in";
    fill.fillStyle = this.tool === "add" ? `rgb(${TINT} / .5)` : "rgb(20 20 24 / .55)";
    fill.fillRect(0, 0, w, h);
    layer.drawImage(colour, 0, 0);
  }

  listen() {
    const canvas = $("overlay");
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0 || this.pointer !== null) return;
      this.pointer = event.pointerId;
      canvas.setPointerCapture(event.pointerId); // a stroke goes on past the picture's edge
      this.begin(this.at(event));
      event.preventDefault();
      canvas.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      this.cursor = this.at(event).map((value, i) => value / [this.width, this.height][i]);
      this.placeRing(true);
      if (event.pointerId !== this.pointer) return;
      const points = event.getCoalescedEvents?.() ?? [];
      for (const one of points.length ? points : [event]) this.painting.move(this.at(one));
      this.draw();
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => {
      if (event.pointerId === this.pointer) this.end();
    });
    canvas.addEventListener("pointerleave", () => { $("ring").hidden = document.activeElement !== canvas; });
    canvas.addEventListener("blur", () => { $("ring").hidden = true; });
    canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) this.placeRing(true); });
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    $("wipe").addEventListener("input", () => this.setLine($("wipe").valueAsNumber));
    $("viewport").addEventListener("wheel", (event) => {
      if (!event.ctrlKey || !this.width) return;
      event.preventDefault();
      const box = $("viewport").getBoundingClientRect();
      const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      this.setZoom(this.zoom * Math.exp(-event.deltaY / 300), at);
    }, { passive: false });
  }

  // Left of the line is the picture before, right of it the result.
  setLine(percent) {
    $("wipe").value = percent;
    $("wipe").setAttribute("aria-valuetext", `${percent} % before, ${100 - percent} % after`);
    $("stage").style.setProperty("--line-at", `${percent}%`);
  }

  at(event) {
    const box = $("overlay").getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.width, ((event.clientY - box.top) / box.height) * this.height];
  }

  begin(point) {
    this.isStroking = true;
    this.painting.begin(this.tool, this.brushSize, point);
    this.draw();
  }

  end() {
    this.pointer = null;
    this.painting.redraw(); // as undo and redo draw it: a line in pieces has other soft edges
    this.on.stroke();
  }

  // Arrow keys move the brush by a quarter of itself, space paints a spot.
  onKey(event) {
    const step = this.brushSize / 4;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const point = [this.cursor[0] * this.width, this.cursor[1] * this.height];
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      this.cursor = [clamp((point[0] + dx) / this.width), clamp((point[1] + dy) / this.height)];
      this.placeRing(true);
    } else if (event.key === " ") {
      this.begin(point);
      this.end();
    } else return;
    event.preventDefault();
  }

  placeRing(show = false) {
    const ring = $("ring"), side = this.brushSize * (this.fit ?? 1) * this.zoom;
    if (show) ring.hidden = $("overlay").hidden;
    Object.assign(ring.style, { width: `${side}px`, height: `${side}px`, left: `${this.cursor[0] * 100}%`, top: `${this.cursor[1] * 100}%` });
  }
}

const clamp = (value) => Math.min(1, Math.max(0, value));

function tint(data, w, h) {
  const values = data.data, level = new Uint8Array(w * h);
  for (let i = 0; i < level.length; i++) level[i] = values[4 * i];
  for (let y = 0, i = 0; y < h; y++) for (let x = 0; x < w; x++, i++) {
    const inside = level[i] >= 128;
    const edge = (dx, dy) => {
      const nx = x + dx, ny = y + dy;
      return nx >= 0 && ny >= 0 && nx < w && ny < h && level[ny * w + nx] >= 128 !== inside;
    };
    const isEdge = edge(1, 0) || edge(-1, 0) || edge(0, 1) || edge(0, -1);
    const colour = isEdge ? (inside ? [255, 255, 255] : [0, 0, 0]) : TINT;
    values[4 * i] = colour[0];
    values[4 * i + 1] = colour[1];
    values[4 * i + 2] = colour[2];
    values[4 * i + 3] = isEdge ? 235 : level[i] * 0.42;
  }
}
