// What stands there before the first call: how to send one.

const place = (id) => document.getElementById(id);
const WILDCARDS = /^(0\.0\.0\.0|\[::\]):/;

export class Welcome {
  /** Show the commands that send a call, as long as none was sent. */
  update({ state, calls, model, models, targets }) {
    place("empty").hidden = calls > 0 && state !== "loading";
    if (place("empty").hidden) return;
    const asked = models.filter(({ name, command }) => command.length && (!model || name === model));
    if (state === "loading") {
      this.#say("The server is loading its models", "It takes calls as soon as they are loaded; figures appear here by themselves.", []);
    } else {
      const target = reachable(targets[0] ?? "");
      const commands = asked.slice(0, 4).map(({ command: [before, after] }) => `${before} ${target} ${after}`.trim());
      this.#say(
        model ? `No calls to ${model} yet` : "No calls yet",
        commands.length > 1 ? "Send one from a terminal with one of these:" : "Send one from a terminal:",
        commands,
      );
    }
  }

  #say(title, text, commands) {
    place("empty-title").textContent = title;
    place("empty-text").textContent = text;
    const key = commands.join("\n");
    if (key === this.shown) return; // so that a selection stays
    this.shown = key;
    place("empty-commands").replaceChildren(...commands.map(line));
  }
}

/** A server that listens on every address is called by the name that led to this page. */
function reachable(target) {
  return target.replace(WILDCARDS, () => `${location.hostname}:`);
}

function line(command) {
  const code = document.createElement("code");
  code.textContent = command;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(code);
    // Browsers lend the clipboard to pages from this machine or over TLS; elsewhere the selection is left to copy.
    const copied = navigator.clipboard?.writeText(command).then(() => true, () => false);
    button.textContent = (await copied) ? "Copied" : "Selected";
  });
  const item = document.createElement("li");
  item.append(code, button);
  return item;
}
