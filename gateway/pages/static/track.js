// Keeps a tracking page current: times of the viewer's zone, countdowns, live updates, the one-time code.
// The page is complete without it. It talks to the gateway that served it and to nobody else.
(() => {
  "use strict";
  const page = document.documentElement;
  const said = document.getElementById("said");
  const language = page.lang;
  // The client's clock may be wrong: count by the server's.
  let ahead = Date.now() - Number(page.dataset.now);
  const now = () => Date.now() - ahead;
  const $ = (id) => document.getElementById(id);
  const live = () => $("live");

  // The fragment never leaves the browser: no request, referrer or log has it.
  const secret = new URLSearchParams(location.hash.slice(1)).get("cs");
  const kept = { message: "", bad: false, busy: false, done: "" };

  // --- Times --------------------------------------------------------------------------------------
  // Days before months and 24 hours, as the server writes them.
  const form = (options) => new Intl.DateTimeFormat(language === "en" ? "en-GB" : language, options);
  const hm = form({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const hms = form({ hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const date = form({ day: "numeric", month: "short" });
  const full = form({ dateStyle: "full", timeStyle: "long" });
  const put = (text, fields) => text.replace(/\{(\w+)\}/g, (_, name) => fields[name]);

  const localize = () => {
    for (const each of live().querySelectorAll("time")) {
      const at = new Date(each.dateTime);
      const today = at.toDateString() === new Date(now()).toDateString();
      each.title = full.format(at);
      each.textContent = {
        time: () => hm.format(at),
        seconds: () => hms.format(at),
        date: () => `${date.format(at)}, ${hm.format(at)}`,
        day: () => put(page.dataset[today ? "today" : "day"], { date: date.format(at), time: hm.format(at) }),
      }[each.dataset.as]();
    }
  };

  const tick = () => {
    for (const each of live().querySelectorAll("[data-until]")) {
      const seconds = Math.max(0, Math.floor((Number(each.dataset.until) - now()) / 1000));
      const two = (number) => String(number).padStart(2, "0");
      const minutes = Math.floor(seconds / 60);
      each.textContent = minutes < 60 ? `${minutes}:${two(seconds % 60)}`
        : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`;
    }
  };

  // --- The part of the page that changes ----------------------------------------------------------
  const prepare = () => {
    localize();
    tick();
    const code = $("code");
    if (!code || !secret) return;
    code.hidden = false;
    for (const each of live().querySelectorAll("[data-app]")) each.hidden = true;
    for (const each of live().querySelectorAll("[data-answer]")) each.hidden = false;
    code.addEventListener("submit", confirm);
    if (kept.done === code.dataset.number) tell(code.dataset.sent, false);
  };

  const replace = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("live");
    const old = live();
    if (!fresh || fresh.dataset.tag === old.dataset.tag) return;
    const [before, field] = [old.dataset.state, $("passcode")];
    const typed = field && { number: $("code").dataset.number, value: field.value, here: document.activeElement === field };
    old.replaceWith(document.adoptNode(fresh));
    prepare();
    const [code, again] = [$("code"), $("passcode")];
    if (typed && code && code.dataset.number === typed.number) {
      again.value = typed.value;
      if (typed.here) again.focus();
      tell(kept.message, kept.bad);
      lock(kept.busy);
    }
    document.title = `${$("state").textContent}: ${live().querySelector("h1").textContent.trim()}`;
    if (before !== fresh.dataset.state) {
      said.textContent = `${$("state").textContent}. ${[...$("say").childNodes].filter((each) => !each.hidden).map((each) => each.textContent).join(" ").trim()}`;
    }
    if ("final" in fresh.dataset) stop();
  };

  // --- Live: server-sent events; where there are none, the page asks again with its ETag -----------
  let source = null, timer = 0, etag = "", polls = 0;
  const path = location.pathname + location.search;
  const final = () => "final" in live().dataset;

  const pulse = (word) => {
    const at = $("pulse").querySelector("time");
    const [before, after] = page.dataset[word].split("{at}");
    $("pulse").replaceChildren(before, at, after);
  };

  const stop = () => {
    if (source) source.close();
    clearTimeout(timer);
    source = null;
  };

  const connect = () => {
    stop();
    if (final()) return;
    if (!window.EventSource) return poll();
    source = new EventSource(`${location.pathname}/stream?v=${live().dataset.tag}`);
    source.addEventListener("now", (event) => { ahead = Date.now() - Number(event.data); pulse("live"); });
    source.addEventListener("state", (event) => replace(event.data));
    source.addEventListener("end", stop);
    source.onerror = () => {
      // While it is connecting the browser tries again by itself; a refusal (503) closes it for good.
      if (source && source.readyState === 2) { source = null; later(2); }
    };
  };

  const later = (seconds) => {
    clearTimeout(timer);
    timer = setTimeout(poll, seconds * 1000 * (0.8 + Math.random() * 0.4));
  };

  const poll = async () => {
    let wait = 10;
    try {
      const answer = await fetch(path, { cache: "no-store", headers: etag ? { "If-None-Match": etag } : {} });
      if (answer.status === 200) {
        etag = answer.headers.get("ETag") || "";
        replace(await answer.text());
      } else if (answer.status !== 304) {
        wait = Math.max(wait, Number(answer.headers.get("Retry-After")) || 30);
      }
      if (!final()) pulse("polling");
    } catch { wait = 20; }
    if (final()) return;
    // Now and then there may be room for a stream again.
    if (++polls % 6 === 0 && window.EventSource) connect(); else later(wait);
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop(); else if (!source) connect();
  });

  // --- The one-time code --------------------------------------------------------------------------
  const tell = (message, bad) => {
    kept.message = message;
    kept.bad = bad;
    if (!$("told")) return;
    $("told").textContent = message;
    $("told").classList.toggle("bad", bad);
    $("passcode").setAttribute("aria-invalid", String(bad));
  };
  const lock = (busy) => {
    kept.busy = busy;
    if ($("code")) $("code").querySelector("button").disabled = busy;
  };

  const confirm = async (event) => {
    event.preventDefault();
    const words = $("code").dataset;
    const code = $("passcode").value.replace(/\s+/g, "").toUpperCase();
    if (kept.busy || !code) return;
    lock(true);
    tell(words.sending, false);
    let [message, bad] = [words.busy, true];
    try {
      const answer = await fetch(words.confirm, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ client_secret: secret, passcode: { token: { code } } }),
      });
      const problem = answer.ok ? {} : await answer.json();
      if (answer.ok) {
        [message, bad] = [words.sent, false];
        kept.done = words.number;
      } else if (answer.status === 422) {
        message = words.wrong;
      } else if (["payout_not_found", "action_not_required", "action_expired"].includes(problem.code)) {
        message = words.over;
      }
    } catch { /* no answer: the person may send it again, the gateway takes it once */ }
    lock(false);
    tell(message, bad);
    const field = $("passcode");
    if (!field) return;
    if (message !== words.busy) field.value = "";
    if (bad) field.focus();
  };

  // --- Copying an id ------------------------------------------------------------------------------
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try { await navigator.clipboard.writeText(button.dataset.copy); } catch { return; }
    button.classList.add("copied");
    said.textContent = page.dataset.copied;
    setTimeout(() => { button.classList.remove("copied"); said.textContent = ""; }, 2000);
  });

  page.classList.add("js");
  prepare();
  setInterval(tick, 1000);
  connect();
})();
