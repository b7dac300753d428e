// Light or dark, decided before anything is drawn: a classic script, so that no page flashes in the wrong one.
// What the reader chose is kept, as long as it differs from what the system asks for.
(() => {
  const KEY = "headwaiter-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const preferred = () => (system.matches ? "dark" : "light");

  function chosen() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is blocked: follow the system
    }
  }

  function keep(theme) {
    try {
      if (theme === preferred()) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, theme);
    } catch {
      // The choice lasts as long as the page.
    }
  }

  function show(theme) {
    document.documentElement.dataset.theme = theme;
    dispatchEvent(new CustomEvent("themechange", { detail: theme }));
  }

  globalThis.headwaiterTheme = {
    toggle() {
      const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
      keep(theme);
      show(theme);
    },
  };
  system.addEventListener("change", () => show(chosen() ?? preferred()));
  show(chosen() ?? preferred());
})();
