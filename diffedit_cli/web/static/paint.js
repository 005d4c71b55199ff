// What a person paints: strokes in the picture's own pixels, with undo and redo, drawn to two areas.

const MOST_SIDE = 2048;

export class Painting {
  constructor(width, height) {
    this.scale = Math.min(1, MOST_SIDE / Math.max(width, height));
    this.size = [Math.max(1, Math.round(width * this.scale)), Math.max(1, Math.round(height * this.scale))];
    this.added = this.layer();
    this.taken = this.layer();
    this.clear();
  }

  layer() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = this.size;
    return canvas.getContext("2d");
  }

  clear() {
    this.strokes = [];
    this.undone = [];
    this.redraw();
  }

  get isEmpty() {
    return this.strokes.length === 0;
  }

  begin(tool, size, point) {
    this.strokes.push({ tool, size, points: [point] });
    this.undone = [];
    this.draw(this.strokes.at(-1), 0);
  }

  move(point) {
    const stroke = this.strokes.at(-1);
    stroke.points.push(point);
    this.draw(stroke, stroke.points.length - 2);
  }

  fill(bitmap) {
    this.strokes.push({ tool: "fill", bitmap });
    this.undone = [];
    this.redraw();
  }

  undo() {
    if (this.strokes.length) this.undone.push(this.strokes.pop());
    this.redraw();
  }

  redo() {
    if (this.undone.length) this.strokes.push(this.undone.pop());
    this.redraw();
  }

  redraw() {
    for (const layer of [this.added, this.taken]) layer.clearRect(0, 0, ...this.size);
    for (const stroke of this.strokes) this.draw(stroke, 0);
  }

  // What is added is no longer taken away, and the other way round: the last stroke holds.
  draw(stroke, from) {
    if (stroke.tool === "fill") {
      this.added.drawImage(stroke.bitmap, 0, 0, ...this.size);
      return;
    }
    const [to, off] = stroke.tool === "add" ? [this.added, this.taken] : [this.taken, this.added];
    for (const [layer, mode] of [[to, "source-over"], [off, "destination-out"]]) {
      layer.globalCompositeOperation = mode;
      line(layer, stroke, from, this.scale);
      layer.globalCompositeOperation = "source-over";
    }
  }

  // The areas as PNG, null where nothing is painted. What is white is the area.
  areas(isOwn) {
    const has = (tool) => this.strokes.some((stroke) => stroke.tool === tool || (tool === "add" && stroke.tool === "fill"));
    const added = has("add") ? png(this.added) : null;
    if (isOwn) return { use: added };
    return { add: added, subtract: has("subtract") ? png(this.taken) : null };
  }
}

function line(layer, { points, size }, from, scale) {
  layer.strokeStyle = layer.fillStyle = "#fff";
  layer.lineWidth = size * scale;
  layer.lineCap = layer.lineJoin = "round";
  layer.beginPath();
  const [x, y] = points[from];
  layer.moveTo(x * scale, y * scale);
  for (const [toX, toY] of points.slice(from + 1)) layer.lineTo(toX * scale, toY * scale);
  if (points.length - from === 1) layer.lineTo(x * scale + 0.01, y * scale);
  layer.stroke();
}

// Not toBlob: Chromium puts that off until it is idle, up to a second later.
function png(layer) {
  const text = atob(layer.canvas.toDataURL("image/png").split(",")[1]);
  return new Blob([Uint8Array.from(text, (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

// A mask file as white on nothing: its transparency is the mask if it has any, else its brightness.
export async function readMask(file) {
  const bitmap = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const layer = canvas.getContext("2d");
  layer.drawImage(bitmap, 0, 0);
  const data = layer.getImageData(0, 0, canvas.width, canvas.height);
  const values = data.data;
  let isClear = false;
  for (let i = 3; i < values.length; i += 4) isClear ||= values[i] < 255;
  for (let i = 0; i < values.length; i += 4) {
    if (!isClear) values[i + 3] = Math.round(0.299 * values[i] + 0.587 * values[i + 1] + 0.114 * values[i + 2]);
    values[i] = values[i + 1] = values[i + 2] = 255;
  }
  layer.putImageData(data, 0, 0);
  return createImageBitmap(canvas);
}
