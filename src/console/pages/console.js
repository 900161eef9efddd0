// Live updates, and a key for the search: every page works without this.
"use strict";
(() => {
  const EVERY_MS = 5000;
  const find = document.getElementById("find");
  document.addEventListener("keydown", (event) => {
    const field = event.target.closest("input, textarea, select");
    if (event.key === "/" && !field && find) {
      event.preventDefault();
      find.focus();
    }
  });

  let live = document.querySelector("[data-live]");
  if (!live) return;
  const note = document.createElement("p");
  note.className = "live";
  note.setAttribute("role", "status");
  live.before(note);
  const say = (text) => {
    if (note.textContent !== text) note.textContent = text;
  };
  const isInUse = () => live.contains(document.activeElement) || !getSelection().isCollapsed;
  const update = async () => {
    if (document.hidden || isInUse()) return;
    const answer = await fetch(location.href, { credentials: "same-origin", redirect: "manual" });
    if (answer.type === "opaqueredirect") {
      say("The session has ended: load this page again to log in.");
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("[data-live]");
    // Somebody may have begun to read or click meanwhile.
    if (fresh && !isInUse()) {
      const open = [...live.querySelectorAll("details")].map((one) => one.open);
      live.replaceWith(fresh);
      live = fresh;
      live.querySelectorAll("details").forEach((one, at) => (one.open = open[at] ?? one.open));
    }
    const title = page.querySelector("h1");
    const shown = document.querySelector("h1");
    if (title && shown && title.textContent !== shown.textContent) {
      shown.textContent = title.textContent;
      document.title = page.title;
    }
    say("Live: looks again every 5 s.");
  };
  const loop = async () => {
    try {
      await update();
    } catch (error) {
      say("No answer: what you see is old.");
    }
    // It asks for its next look itself, so an instance that is slow is asked less often.
    setTimeout(loop, EVERY_MS);
  };
  say("Live: looks again every 5 s.");
  setTimeout(loop, EVERY_MS);
})();
