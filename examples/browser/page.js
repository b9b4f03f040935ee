// The page: loads the model, takes files, and writes the answers beside the images.

import * as ort from "./ort/ort.wasm.min.mjs";
import { classify, load } from "./classify.js";

const MOST = 3; // answers of an image
const state = document.getElementById("state");
const drop = document.getElementById("drop");

function element(name, text = "", fields = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, fields);
}

async function show(model, file) {
  const figure = element("figure");
  document.getElementById("answers").prepend(figure);
  figure.append(element("img", "", { src: URL.createObjectURL(file), alt: file.name }));
  try {
    const { answers, sure } = await classify(model, file);
    const table = element("table");
    for (const { name, probability } of answers.slice(0, MOST)) {
      const row = table.insertRow();
      row.insertCell().textContent = name;
      row.insertCell().append(element("meter", "", { value: probability, max: 1 }));
      row.insertCell().textContent = `${(100 * probability).toFixed(1)} %`;
    }
    if (!sure) table.createCaption().textContent = "unsure";
    figure.append(table);
  } catch (error) {
    figure.append(element("p", `${file.name} is no image that this browser reads: ${error.message}`, { role: "alert" }));
  }
}

try {
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  const model = await load(ort, "model");
  state.textContent = `Classes: ${model.description.classes.join(", ")}.`;
  const take = async (files) => {
    for (const file of files) await show(model, file);
  };
  document.getElementById("files").addEventListener("change", (event) => take([...event.target.files]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take([...event.dataTransfer.files]);
    });
  }
  document.body.dataset.ready = "true";
} catch (error) {
  state.textContent = error.message;
  state.setAttribute("role", "alert");
}
