// The live page: puts its parts together, and tells how the server is.

import { Charts } from "./charts.js";
import { Feed } from "./feed.js";
import { clock, number, plural, span } from "./format.js";
import { History } from "./history.js";
import { Notice } from "./notice.js";
import { Tiles } from "./tiles.js";
import { Welcome } from "./welcome.js";

const STALE_SECONDS = 5;

const place = (id) => document.getElementById(id);
const show = (id, text) => {
  // Written only when it differs, so that what is selected stays selected.
  if (place(id).textContent !== text) place(id).textContent = text;
};

class Page {
  constructor() {
    this.history = new History();
    this.tiles = new Tiles(place("tiles"));
    this.announce = (text) => show("announcer", text);
    this.charts = new Charts(place("charts"), this.history, place("reading"), this.announce);
    this.notice = new Notice(this.announce);
    this.welcome = new Welcome();
    this.feed = new Feed(
      (answer, fresh) => this.#answered(answer, fresh),
      () => this.#silent(),
    );
    this.paused = false;
    this.run = null;
    this.heard = null; // when the newest answer came
    this.moved = null; // when the newest point came
    this.#controls();
  }

  start() {
    setInterval(() => this.#status(), 1000);
    this.feed.start();
  }

  #controls() {
    place("theme").addEventListener("click", () => headwaiterTheme.toggle());
    const named = () => {
      const other = document.documentElement.dataset.theme === "dark" ? "Light" : "Dark";
      show("theme", other);
      place("theme").setAttribute("aria-label", `${other} colours`);
    };
    addEventListener("themechange", named);
    named();

    place("pause").addEventListener("click", () => {
      this.paused = !this.paused;
      place("pause").setAttribute("aria-pressed", String(this.paused));
      if (!this.paused && this.answer) this.#draw();
      this.#status();
    });
    for (const input of document.querySelectorAll("input[name=span]")) {
      input.addEventListener("change", () => this.charts.show(Number(input.value)));
      if (input.checked) this.charts.show(Number(input.value)); // browsers restore what was chosen
    }
    place("model").addEventListener("change", (event) => {
      this.history.clear();
      this.feed.choose(event.target.value);
    });
  }

  #answered(answer, fresh) {
    if (fresh && this.run !== null && this.run !== answer.run) this.#restarted(answer);
    if (this.version !== undefined && this.version !== answer.version) location.reload(); // as this page may be
    if (this.feed.model && answer.state === "ready" && !answer.models.some(({ name }) => name === this.feed.model)) {
      this.history.clear();
      this.feed.choose("");
      return;
    }
    this.notice.found();
    Object.assign(this, { answer, run: answer.run, version: answer.version, heard: performance.now() });
    if (answer.times.length) this.moved = this.heard;
    this.history.append(answer.times, answer.points);
    this.#choices(answer.models);
    if (!this.paused) this.#draw();
    this.#status();
  }

  #restarted(answer) {
    this.history.restarted(answer.started);
    this.notice.restarted(answer.started);
  }

  #silent() {
    if (this.heard === null) this.heard = performance.now();
    this.notice.lost(this.answer?.time);
    this.#status();
  }

  #draw() {
    const { answer } = this;
    this.welcome.update(answer);
    this.tiles.update(answer);
    this.charts.update(answer);
    show("figures-span", answer.now.seconds ? `Means of the last ${span(answer.now.seconds)}.` : "No figures yet.");
    const facts = [
      `version ${answer.version}`,
      plural(answer.workers, "worker"),
      `up ${span(answer.time - answer.started)}`,
      ...(answer.targets.length ? [`gRPC ${answer.targets.join(", ")}`] : []),
    ];
    show("facts", facts.join(" · "));
    document.title = answer.calls ? `${number(answer.now.calls)} calls/s · Headwaiter` : "Headwaiter";
  }

  #choices(models) {
    const select = place("model");
    const choices = [["", "All models"], ...models.map(({ name, title }) => [name, title])];
    const known = [...select.options].map(({ value }) => value);
    if (known.join("\n") !== choices.map(([value]) => value).join("\n")) {
      select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
    }
    select.value = this.feed.model;
    place("chooser").hidden = models.length < 2;
  }

  #status() {
    const since = (moment) => (performance.now() - moment) / 1000;
    let [state, text] = ["live", "Live"];
    if (this.notice.silent) [state, text] = ["lost", `No answer for ${span(since(this.heard))}`];
    else if (this.heard === null) [state, text] = ["connecting", "Connecting"];
    else if (this.paused) [state, text] = ["paused", `Paused at ${clock(this.charts.to)}`];
    else if (this.answer.state === "loading") [state, text] = ["connecting", "Loading models"];
    else if (this.answer.state === "draining") [state, text] = ["lost", "Shutting down"];
    else if (this.moved !== null && since(this.moved) > STALE_SECONDS) [state, text] = ["lost", `No new figures for ${span(since(this.moved))}`];
    place("status").dataset.state = state;
    show("status-text", text);
    document.body.classList.toggle("stale", state === "lost");
  }
}

new Page().start();
