// Makes the panel's pages quicker to use: times of the viewer's zone, copy buttons, pages that stay current.
// Every page is complete without it. It talks to the gateway that served it and to nobody else.
(() => {
  "use strict";
  document.documentElement.classList.add("js");
  const said = () => document.getElementById("said");
  const hms = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const hm = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
  const full = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long" });

  const localize = (within) => {
    for (const each of within.querySelectorAll("time[datetime]")) {
      const at = new Date(each.dateTime);
      each.title = full.format(at);
      if (each.dataset.tick) each.textContent = (each.dataset.tick === "24h" ? hm : date).format(at);
      if (!("clock" in each.dataset)) continue;
      const tenths = each.dataset.clock === "tenths" ? `.${Math.floor(at.getMilliseconds() / 100)}` : "";
      const today = /^\d\d:/.test(each.textContent.trim());
      each.textContent = today ? hms.format(at) + tenths : day.format(at);
    }
  };

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (!copy) return;
    try {
      await navigator.clipboard.writeText(copy.dataset.copy);
    } catch {
      return;
    }
    copy.classList.add("copied");
    said().textContent = "Copied";
    setTimeout(() => {
      copy.classList.remove("copied");
      said().textContent = "";
    }, 2000);
  });

  // What cannot be undone is sent once, however often the button is pressed.
  document.addEventListener("submit", (event) => {
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "1";
  });
  addEventListener("pageshow", () => {
    for (const each of document.forms) delete each.dataset.sent;
  });

  // A part of the page that is asked for again: the old content stays until the new one is there.
  const refresh = async () => {
    const old = document.querySelector("[data-refresh]");
    if (!old) return;
    if (!document.hidden && !old.contains(document.activeElement)) {
      const late = setTimeout(() => old.setAttribute("aria-busy", "true"), 400);
      try {
        const answer = await fetch(location.href, { redirect: "error" });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector(`#${old.id}`);
        if (answer.ok && fresh) {
          const [before, after] = [old.dataset.says, fresh.dataset.says];
          old.replaceWith(document.adoptNode(fresh));
          localize(fresh);
          if (before !== after) said().textContent = after;
        }
      } catch {
        // The next time.
      }
      clearTimeout(late);
      old.removeAttribute("aria-busy");
    }
    const left = document.querySelector("[data-refresh]");
    if (left) setTimeout(refresh, Number(left.dataset.refresh) * 1000);
  };

  localize(document);
  const first = document.querySelector("[data-refresh]");
  if (first) setTimeout(refresh, Number(first.dataset.refresh) * 1000);
})();
