// The load panel: what each model's queue, share and speed are, once a second.

const KEPT = 120;

export function watch(panel, ask) {
  const history = new Map();
  const cards = new Map();
  const card = (name) => {
    if (cards.has(name)) return cards.get(name);
    const box = document.createElement("div");
    const title = document.createElement("h3");
    title.textContent = name;
    const figures = document.createElement("dl");
    figures.className = "figures";
    const chart = document.createElement("canvas");
    chart.setAttribute("role", "img");
    box.append(title, figures, chart);
    panel.append(box);
    cards.set(name, { figures, chart });
    return cards.get(name);
  };
  const show = (load) => {
    const { figures, chart } = card(load.model);
    const rows = [
      ["Share of the dense FLOPs", percent(load.shares.normal)],
      ["Images that wait", load.waiting],
      ["Wait of a new image", `${load.wait_seconds.toFixed(2)} s`],
      ["Images a second", load.images_per_second.toFixed(1)],
      ["Same answer as dense", load.fidelity_samples ? percent(load.fidelity_agreement) : "no sample yet"],
      ["KL from dense", load.fidelity_samples ? `${load.fidelity_kl.toFixed(4)} nats` : "no sample yet"],
    ];
    fill(figures, rows);
    const past = history.get(load.model) ?? [];
    past.push({ share: load.shares.normal, waiting: load.waiting });
    if (past.length > KEPT) past.shift();
    history.set(load.model, past);
    chart.setAttribute("aria-label", `Share and queue of ${load.model} over the last two minutes`);
    plot(chart, past);
  };
  const look = async () => {
    if (document.visibilityState === "visible") {
      try {
        for (const load of await ask("/v1/load")) show(load);
      } catch {
        // The next look tries again; the picture's request says what is wrong.
      }
    }
    setTimeout(look, 1000);
  };
  look();
}

/// Fills a list of descriptions.
export function fill(list, rows) {
  list.replaceChildren(
    ...rows.flatMap(([term, value]) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = term;
      dd.textContent = value;
      return [dt, dd];
    }),
  );
}

export const percent = (share) => `${Math.round(share * 100)} %`;

/// The share as a line, the queue as an area behind it.
function plot(chart, past) {
  const [wide, high] = [(chart.width = chart.clientWidth), (chart.height = chart.clientHeight)];
  const context = chart.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const x = (index) => (index / (KEPT - 1)) * wide;
  const most = Math.max(10, ...past.map((point) => point.waiting));
  context.fillStyle = style.getPropertyValue("--mark-soft");
  context.beginPath();
  context.moveTo(0, high);
  past.forEach((point, index) => context.lineTo(x(index), high - (point.waiting / most) * high));
  context.lineTo(x(past.length - 1), high);
  context.fill();
  context.strokeStyle = style.getPropertyValue("--mark");
  context.lineWidth = 2;
  context.beginPath();
  past.forEach((point, index) => context.lineTo(x(index), 2 + (1 - point.share) * (high - 4)));
  context.stroke();
}
