// What a model's memory had to do with an answer, and a form that adds the picture to it.

import { percent } from "./load.js";

/// Shows it in the panel; hides the panel where the model has no memory.
export function show(panel, looked) {
  panel.hidden = !looked;
  if (!looked) return;
  const first = looked.alone[0];
  const alone = first ? `The model alone says ${first.class}, ${percent(first.probability)}.` : "";
  const asked = looked.share === null ? "The memory was not asked." : `${percent(looked.share)} of the answer is the memory's.`;
  panel.querySelector(".looked").textContent = looked.failure ? `${looked.failure}. ${alone}` : `${asked} ${alone}`;
  panel.querySelector(".neighbors").replaceChildren(...(looked.neighbors ?? []).map((near) => {
    const item = document.createElement("li");
    item.textContent = `${near.similarity.toFixed(2)}  ${near.class}, ${near.source}`;
    return item;
  }));
}

/// Calls `add` with the class that is named; what goes wrong is shown.
export function listen(panel, add) {
  const [form, name, fault] = ["form", "input", ".fault"].map((part) => panel.querySelector(part));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await add(name.value.trim());
      name.value = "";
      fault.textContent = "";
    } catch (error) {
      fault.textContent = error.message;
    }
  });
}
