// Heatmaps on a neuron's pictures: what lies below the slider's percentile is dimmed. The server computes maps and IoU.
"use strict";
const form = document.querySelector("form.heat-choose");
const slider = form && form.elements.percentile;

function decoded(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function load(box) {
  const note = box.nextElementSibling;
  const got = await fetch(box.dataset.heat);
  if (!got.ok) {
    note.textContent = (await got.json()).detail;
    return;
  }
  const map = decoded(await createImageBitmap(await got.blob()));
  box.flat = got.headers.get("X-Heat-Min") === got.headers.get("X-Heat-Max");
  const { data } = map;
  box.greys = [];
  for (let i = 0; i < data.length; i += 4) if (data[i + 3]) box.greys.push(data[i]);
  box.greys.sort((a, b) => a - b);
  box.ious = (got.headers.get("X-Heat-IoU") || "").split(",");
  box.random = got.headers.get("X-Heat-Random-IoU");
  if (box.ious.length > 1) {
    const mask = await fetch(box.dataset.mask);
    if (mask.ok) box.mask = decoded(await createImageBitmap(await mask.blob()));
  }
  box.map = map;
  box.querySelector("img").src = box.dataset.picture;
  draw(box);
}

function onEdge(mask, x, y) {
  const shown = (a, b) => a >= 0 && b >= 0 && a < mask.width && b < mask.height && mask.data[4 * (b * mask.width + a)] > 0;
  return shown(x, y) && !(shown(x - 1, y) && shown(x + 1, y) && shown(x, y - 1) && shown(x, y + 1));
}

function draw(box) {
  const { map, greys, mask } = box;
  const percentile = Number(slider.value);
  const canvas = box.querySelector("canvas");
  const note = box.nextElementSibling;
  if (!map) return;
  canvas.width = map.width;
  canvas.height = map.height;
  const laid = new ImageData(map.width, map.height);
  const most = greys[greys.length - 1];
  const at = box.flat ? most : Math.min(greys[Math.floor((percentile / 100) * (greys.length - 1))], most - 1);
  for (let i = 0; i < map.data.length; i += 4) {
    const place = i / 4;
    if (mask && onEdge(mask, place % map.width, Math.floor(place / map.width))) laid.data.set([255, 120, 0, 255], i);
    else if (!(map.data[i + 3] && map.data[i] > at)) laid.data[i + 3] = 178;
  }
  canvas.getContext("2d").putImageData(laid, 0, 0);
  const iou = box.ious[Math.floor(percentile)];
  note.textContent = box.flat ? "its value is the same everywhere"
    : iou ? `IoU with ${box.dataset.concept} ${Number(iou).toFixed(2)}`
      + (box.random && percentile === 95 ? `, random neurons ${Number(box.random).toFixed(2)}` : "") : "";
}

if (form) {
  const boxes = [...document.querySelectorAll(".heat")];
  slider.addEventListener("input", () => {
    form.querySelector("output").textContent = slider.value;
    boxes.forEach(draw);
  });
  (async () => { for (const box of boxes) await load(box); })();
}
