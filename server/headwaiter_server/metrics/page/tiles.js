// The figures of the last seconds, as a list of terms.

import { TILES } from "./specs.js";

export class Tiles {
  constructor(root) {
    this.root = root;
    this.tiles = TILES.map((spec) => {
      const tile = { spec, root: document.createElement("div"), figure: document.createElement("b"), unit: document.createElement("span") };
      tile.root.className = "tile";
      tile.root.hidden = Boolean(spec.generates);
      tile.root.dataset.tile = spec.id;
      const title = document.createElement("dt");
      title.textContent = spec.title;
      const figure = document.createElement("dd");
      figure.className = "figure";
      figure.append(tile.figure, tile.unit);
      tile.root.append(title, figure);
      if (spec.meter) {
        // What it shows stands above it in words.
        tile.meter = document.createElement("progress");
        tile.meter.setAttribute("aria-hidden", "true");
        const line = document.createElement("dd");
        line.append(tile.meter);
        tile.root.append(line);
      }
      tile.more = [0, 1].slice(spec.meter ? 1 : 0).map((_, place) => {
        const line = document.createElement("dd");
        line.className = place ? "more" : "more first";
        tile.root.append(line);
        return line;
      });
      root.append(tile.root);
      return tile;
    });
  }

  update(answer) {
    const { now } = answer;
    this.root.classList.toggle("generates", answer.generates);
    for (const { spec, root, figure, unit, more, meter } of this.tiles) {
      root.hidden = Boolean(spec.generates) && !answer.generates;
      [figure.textContent, unit.textContent] = spec.figure(now, answer);
      const lines = spec.more(now, answer);
      more.forEach((line, place) => (line.textContent = lines[place] ?? ""));
      root.dataset.alarm = String(spec.alarm?.(now, answer) ?? false);
      if (meter) meter.value = spec.meter(now) ?? 0;
    }
  }
}
