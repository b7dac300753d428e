// What happened to the server, said where it is seen and read out: it went away, it came back, it is another one.

import { clock } from "./format.js";

const place = (id) => document.getElementById(id);

export class Notice {
  constructor(announce) {
    this.announce = announce;
    this.silent = false;
    place("notice-close").addEventListener("click", () => this.#hide());
  }

  /** The server does not answer; `time` is when it last did, by its own clock. */
  lost(time) {
    if (this.silent) return;
    this.silent = true;
    const since = time == null ? "" : ` since ${clock(time)}`;
    this.#show("lost", `The server has not answered${since}. Asking again every second; start it again if it has ended.`);
  }

  /** It answers. */
  found() {
    if (!this.silent) return;
    this.silent = false;
    if (this.kind === "lost") this.#hide();
    this.announce("The server answers again.");
  }

  /** Another server answers: it began at `time`. */
  restarted(time) {
    this.silent = false;
    this.#show("restarted", `The server was restarted at ${clock(time)}. What charts show before the dashed line is from the one before.`);
  }

  #show(kind, text) {
    this.kind = kind;
    place("notice").hidden = false;
    place("notice").dataset.kind = kind;
    place("notice-text").textContent = text;
    this.announce(text);
  }

  #hide() {
    place("notice").hidden = true;
  }
}
