// Asks the server for what is new, once a second, for as long as the page is open.

const PERIOD_MS = 1000;
const PATIENCE_MS = 5000;
// Without the name and password that the page's own address may hold: browsers do not fetch such addresses.
const FIGURES = new URL("live.json", `${location.origin}${location.pathname}`);

export class Feed {
  /** `onAnswer(answer, fresh)` gets each answer, `fresh` if it holds all points instead of the new ones;
   * `onSilence()` is told of each question that got none. */
  constructor(onAnswer, onSilence) {
    this.onAnswer = onAnswer;
    this.onSilence = onSilence;
    this.model = "";
    this.restart();
  }

  /** Show another model; "" is all of them. */
  choose(model) {
    this.model = model;
    this.restart();
    this.#ask();
  }

  /** Forget what was received. */
  restart() {
    this.run = null;
    this.last = 0;
  }

  async start() {
    for (;;) {
      const started = performance.now();
      await this.#ask();
      const rest = PERIOD_MS - (performance.now() - started);
      await new Promise((resolve) => setTimeout(resolve, Math.max(rest, PERIOD_MS / 10)));
    }
  }

  async #ask() {
    const { model, last, run } = this;
    const query = new URLSearchParams({ since: last, model, run: run ?? "" });
    let answer;
    try {
      const response = await fetch(`${FIGURES}?${query}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
      if (!response.ok) throw new Error(`status ${response.status}`);
      answer = await response.json();
    } catch {
      if (model === this.model) this.onSilence();
      return;
    }
    // Another model was chosen meanwhile, or another question was answered first.
    if (model !== this.model || last !== this.last || run !== this.run) return;
    this.run = answer.run;
    this.last = answer.last;
    this.onAnswer(answer, run !== answer.run);
  }
}
