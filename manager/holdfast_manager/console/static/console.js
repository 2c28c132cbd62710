// Keeps the live parts of a page up to date. Pages are whole without it.
"use strict";

(function () {
  const part = document.querySelector("[data-live]");
  if (!part) {
    return;
  }
  const note = part.parentElement.querySelector(".live-note");
  const said = note.querySelector(".said");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "plain";
  note.querySelector(".again").replaceWith(button);

  const least = 2000;
  let stopped = false;
  let timer = 0;

  function say(text) {
    if (said.textContent !== text) {
      said.textContent = text;
    }
  }

  function show() {
    button.textContent = stopped ? "Go on updating" : "Stop updating";
    note.classList.toggle("on", !stopped);
  }

  // What was focused, and how far tables were scrolled, stays so.
  function replace(html) {
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const href = focused && focused.getAttribute("href");
    const label = focused && focused.getAttribute("aria-label");
    const scrolled = new Map();
    part.querySelectorAll(".scroll").forEach((each) => scrolled.set(each.getAttribute("aria-label"), each.scrollLeft));
    part.innerHTML = html;
    part.querySelectorAll(".scroll").forEach((each) => {
      each.scrollLeft = scrolled.get(each.getAttribute("aria-label")) || 0;
    });
    if (focused) {
      const same = Array.from(part.querySelectorAll("a, [tabindex]")).find((each) =>
        href ? each.getAttribute("href") === href : each.getAttribute("aria-label") === label
      );
      if (same) {
        same.focus({ preventScroll: true });
      }
    }
  }

  async function look() {
    const began = performance.now();
    let pause = 10000;
    try {
      const answer = await fetch(part.dataset.live, { credentials: "same-origin", redirect: "error" });
      if (answer.status === 401) {
        location.reload();
        return;
      }
      if (answer.ok) {
        replace(await answer.text());
        if (answer.headers.get("X-Over")) {
          say("It has ended.");
          button.remove();
          note.classList.remove("on");
          return;
        }
        say("");
        pause = Math.max(least, 5 * (performance.now() - began));
      } else {
        say("The console cannot tell now; it tries again.");
      }
    } catch (error) {
      say("The console does not answer; it tries again.");
    }
    timer = setTimeout(look, pause);
  }

  function begin() {
    clearTimeout(timer);
    if (!stopped && !document.hidden) {
      timer = setTimeout(look, least);
    }
    show();
  }

  button.addEventListener("click", () => {
    stopped = !stopped;
    begin();
  });
  document.addEventListener("visibilitychange", begin);
  begin();
})();
