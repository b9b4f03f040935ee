// Classifies images with an ONNX export of tlkit, in a browser. `preprocess` follows the rule of docs/preprocessing.md.

/** Loads an export: the folder that `tlkit export RUN --format onnx` wrote. ort: ONNX Runtime Web. */
export async function load(ort, folder) {
  const answered = await fetch(`${folder}/tlkit.json`);
  if (!answered.ok) throw new Error(`There is no ${folder}/tlkit.json. Copy the folder that the export wrote.`);
  const description = await answered.json();
  const session = await ort.InferenceSession.create(`${folder}/${description.file}`);
  return { ort, session, description };
}

/** Classifies an image file. Gives [{name, probability}], the most probable first, and whether the model is sure. */
export async function classify(model, file) {
  const { ort, session, description } = model;
  const rule = description.preprocessing;
  const pixels = await preprocess(file, rule);
  const shape = rule.layout === "NCHW" ? [1, 3, rule.size, rule.size] : [1, rule.size, rule.size, 3];
  const { probabilities } = await session.run({ images: new ort.Tensor("float32", inLayout(pixels, rule), shape) });
  const answers = description.classes.map((name, i) => ({ name, probability: probabilities.data[i] }));
  answers.sort((a, b) => b.probability - a.probability);
  return { answers, sure: answers[0].probability >= (description.unsure_below ?? 0) };
}

/** Decodes a file and makes it square: RGB, 0 to 255, row by row, size * size * 3 values. */
export async function preprocess(file, rule) {
  const image = await createImageBitmap(file, { imageOrientation: "from-image" });
  const { pixels, width, height } = overWhite(image);
  if (rule.fit === "squash") return round(resize(pixels, width, height, rule.size, rule.size));
  if (rule.fit === "crop") {
    const side = Math.min(width, height);
    const cut = crop(pixels, width, Math.floor((width - side) / 2), Math.floor((height - side) / 2), side);
    return round(resize(cut, side, side, rule.size, rule.size));
  }
  const scale = rule.size / Math.max(width, height);
  const [w, h] = [width, height].map((side) => Math.max(1, halfToEven(side * scale)));
  return pad(round(resize(pixels, width, height, w, h)), w, h, rule.size);
}

/** The pixels of an image without transparency: values of three channels. */
function overWhite(image) {
  const { width, height } = image;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = new Float32Array(width * height * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    pixels[j++] = rgba[i];
    pixels[j++] = rgba[i + 1];
    pixels[j++] = rgba[i + 2];
  }
  return { pixels, width, height };
}

/** Resizes with a triangle filter that is widened where the image becomes smaller: first down, then across. */
export function resize(pixels, width, height, toWidth, toHeight) {
  const down = new Float32Array(width * toHeight * 3);
  weights(height, toHeight).forEach(({ first, shares }, y) => {
    shares.forEach((share, k) => {
      for (let x = 0, at = (first + k) * width * 3, to = y * width * 3; x < width * 3; x++) {
        down[to + x] += pixels[at + x] * share;
      }
    });
  });
  const across = new Float32Array(toWidth * toHeight * 3);
  const columns = weights(width, toWidth);
  for (let y = 0; y < toHeight; y++) {
    columns.forEach(({ first, shares }, x) => {
      shares.forEach((share, k) => {
        for (let channel = 0; channel < 3; channel++) {
          across[(y * toWidth + x) * 3 + channel] += down[(y * width + first + k) * 3 + channel] * share;
        }
      });
    });
  }
  return across;
}

/** For each output pixel the first input pixel that counts, and the shares of it and of those after it. */
function weights(input, output) {
  const scale = input / output, radius = Math.max(scale, 1);
  return Array.from({ length: output }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - radius)), last = Math.min(input - 1, Math.ceil(centre + radius));
    const shares = new Float32Array(last - first + 1);
    for (let j = first; j <= last; j++) shares[j - first] = Math.max(0, 1 - Math.abs(j + 0.5 - centre) / radius);
    const sum = shares.reduce((all, one) => Math.fround(all + one), 0);
    return { first, shares: shares.map((one) => one / sum) };
  });
}

function crop(pixels, width, left, top, side) {
  const cut = new Float32Array(side * side * 3);
  for (let y = 0; y < side; y++) {
    const from = ((top + y) * width + left) * 3;
    cut.set(pixels.subarray(from, from + side * 3), y * side * 3);
  }
  return cut;
}

function pad(pixels, width, height, size) {
  const black = new Float32Array(size * size * 3);
  const left = Math.floor((size - width) / 2), top = Math.floor((size - height) / 2);
  for (let y = 0; y < height; y++) {
    black.set(pixels.subarray(y * width * 3, (y + 1) * width * 3), ((top + y) * size + left) * 3);
  }
  return black;
}

function round(values) {
  return values.map((one) => Math.min(255, Math.max(0, halfToEven(one))));
}

function halfToEven(value) {
  const below = Math.floor(value), rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

function inLayout(pixels, rule) {
  if (rule.layout !== "NCHW") return pixels;
  const area = rule.size * rule.size, planes = new Float32Array(pixels.length);
  for (let i = 0; i < area; i++) {
    for (let channel = 0; channel < 3; channel++) planes[channel * area + i] = pixels[i * 3 + channel];
  }
  return planes;
}
