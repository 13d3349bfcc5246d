// A picture's patches on a canvas: what is gone is veiled, what merged has its group's colour.

/// The colour of a group: neighbouring numbers are far apart (golden angle).
const colour = (group, alpha) => `hsl(${(group * 137.508) % 360} 75% 55% / ${alpha})`;

/// `picture` is an ImageBitmap, `result` an answer with `explain=true`, `layer` the index of its layers, or -1 for the
/// picture before any block.
export function draw(canvas, picture, result, layer) {
  const context = canvas.getContext("2d");
  const [left, top, width, height] = result.seen.window;
  // The bitmap may be a smaller copy of what was sent.
  const across = picture.width / result.seen.width;
  const down = picture.height / result.seen.height;
  const side = canvas.width;
  const [rows, columns] = result.grid;
  canvas.height = Math.round((side * rows) / columns);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(
    picture, left * across, top * down, width * across, height * down, 0, 0, canvas.width, canvas.height,
  );
  const patches = layer < 0 ? undefined : result.layers[layer]?.patches;
  if (!patches) return;
  const sizes = new Map();
  for (const token of patches) sizes.set(token, (sizes.get(token) ?? 0) + 1);
  const [wide, high] = [canvas.width / columns, canvas.height / rows];
  const at = (row, column) =>
    row < 0 || column < 0 || row >= rows || column >= columns ? undefined : patches[row * columns + column];
  context.lineWidth = 2;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const token = at(row, column);
      const [x, y] = [column * wide, row * high];
      if (token === null) {
        context.fillStyle = "rgb(20 24 22 / 0.82)";
        context.fillRect(x, y, wide, high);
        continue;
      }
      if (sizes.get(token) < 2) continue;
      context.fillStyle = colour(token, 0.5);
      context.fillRect(x, y, wide, high);
      context.strokeStyle = colour(token, 1);
      // Lines where the group ends.
      context.beginPath();
      if (at(row - 1, column) !== token) { context.moveTo(x, y + 1); context.lineTo(x + wide, y + 1); }
      if (at(row + 1, column) !== token) { context.moveTo(x, y + high - 1); context.lineTo(x + wide, y + high - 1); }
      if (at(row, column - 1) !== token) { context.moveTo(x + 1, y); context.lineTo(x + 1, y + high); }
      if (at(row, column + 1) !== token) { context.moveTo(x + wide - 1, y); context.lineTo(x + wide - 1, y + high); }
      context.stroke();
    }
  }
}

/// An example picture: a ball on grass.
export async function example() {
  const canvas = new OffscreenCanvas(320, 320);
  const context = canvas.getContext("2d");
  const sky = context.createLinearGradient(0, 0, 0, 320);
  sky.addColorStop(0, "#7fb2e5");
  sky.addColorStop(0.6, "#dbe9f4");
  sky.addColorStop(0.61, "#6d8f4e");
  sky.addColorStop(1, "#3d5a2b");
  context.fillStyle = sky;
  context.fillRect(0, 0, 320, 320);
  for (let blade = 0; blade < 400; blade++) {
    const [x, y] = [(blade * 97) % 320, 196 + ((blade * 57) % 124)];
    context.fillStyle = blade % 2 ? "#557a3a" : "#86a860";
    context.fillRect(x, y, 2, 7);
  }
  context.fillStyle = "#c8442f";
  context.beginPath();
  context.arc(165, 190, 62, 0, 7);
  context.fill();
  context.fillStyle = "rgb(255 255 255 / 0.55)";
  context.beginPath();
  context.arc(145, 168, 15, 0, 7);
  context.fill();
  return canvas.convertToBlob({ type: "image/png" });
}
