"""What a report's page looks like, and its one script: light and dark, wide and narrow."""

from __future__ import annotations

from actstore.analysis.statistics.norms import MOST

# Okabe and Ito's colours; the light ones are darkened on white, the dark ones lifted on black.
_LIGHT = {
    **{"ink": "#1d1f23", "soft": "#5d636e", "paper": "#fff", "card": "#fff"},
    **{"line": "#e2e4e8", "grid": "#e9ebee", "head": "#f4f5f7", "link": "#0b5fa5"},
    **{"c0": "#0072b2", "c1": "#d55e00", "c2": "#009e73", "c3": "#b8578f", "c4": "#3a9bd1"},
    **{"c5": "#c98500", "c6": "#000", "c7": "#8c510a", "other": "#8a8a8a", "none": "#b5b5b5"},
}
_DARK = {
    **{"ink": "#e7e9ec", "soft": "#a2a8b3", "paper": "#16181c", "card": "#1d2025"},
    **{"line": "#343941", "grid": "#2b2f36", "head": "#23272d", "link": "#7cc0f5"},
    **{"c0": "#4aa8e0", "c1": "#f08033", "c2": "#2cc79b", "c3": "#e39fc4", "c4": "#8fd0f5"},
    **{"c5": "#f2bd3f", "c6": "#fff", "c7": "#c9a06a", "other": "#8d939c", "none": "#666c75"},
}
_RULES = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 1.2rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .88rem; }
a { color: var(--link); }
pre { margin: .4rem 0; padding: .5rem .7rem; background: var(--head); border-radius: 6px;
  font-size: .82rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr));
  gap: 1rem; align-items: start; margin: .8rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem; min-width: 0; }
.stack { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; width: 100%; }
th, td { text-align: left; padding: .28rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { background: var(--head); font-weight: 600; white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.t { min-width: 9rem; overflow-wrap: anywhere; }
td, th, .key, h2, dd { unicode-bidi: plaintext; text-align: left; }
.bar { background: var(--c0); height: .6rem; border-radius: 2px; min-width: 1px; }
td.w { width: 40%; min-width: 4rem; vertical-align: middle; }
.chart { display: block; width: 100%; height: auto; }
.chart text { fill: var(--ink); }
.chart use:hover, .chart use.on { stroke: var(--ink) !important; stroke-width: 1.5 !important;
  opacity: 1; cursor: pointer; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .85rem; }
.key { display: inline-flex; align-items: center; gap: .3rem; overflow-wrap: anywhere; }
.mark { width: 12px; height: 12px; flex: none; }
details { border-top: 1px solid var(--line); padding: .35rem 0; scroll-margin-top: 1rem; }
details:target { background: var(--head); }
summary { cursor: pointer; overflow-wrap: anywhere; }
dl { margin: .4rem 0; display: grid; grid-template-columns: max-content minmax(0, 1fr);
  gap: .1rem .8rem; font-size: .88rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) { th { white-space: normal; } th, td { padding: .25rem .35rem; }
  table { font-size: .82rem; } td.t { min-width: 7rem; }
  /* Wide tables fold: a block for each row, a line for each cell, its column's name beside it. */
  table.fold, .fold tbody, .fold tr, .fold td { display: block; width: 100%; }
  .fold tr.head { display: none; }
  .fold tr { padding: .4rem 0; border-bottom: 1px solid var(--line); }
  .fold td, .fold td.n { display: grid; grid-template-columns: 7rem minmax(0, 1fr);
    gap: .6rem; border: 0; text-align: left; white-space: normal; overflow-wrap: anywhere; }
  .fold td::before { content: attr(data-name); color: var(--soft); }
}
#told { position: fixed; display: none; width: max-content; max-width: min(360px, 92vw);
  padding: .5rem .7rem;
  background: var(--ink); color: var(--paper); font-size: .82rem; line-height: 1.4;
  border-radius: 6px; white-space: pre-line; overflow-wrap: anywhere; pointer-events: none;
  z-index: 9; }
"""
# Hover text for fingers too: without the script, the browser's own shows over a mouse.
SCRIPT = """
(function () {
  var told = document.getElementById('told'), last = null;
  function hide() {
    told.style.display = 'none';
    if (last) last.classList.remove('on');
    last = null;
  }
  document.querySelectorAll('use > title').forEach(function (title) {
    var dot = title.parentNode; dot.told = title.textContent; title.remove();
  });
  function show(event) {
    var dot = event.target;
    if (!dot.told) { hide(); return; }
    if (last) last.classList.remove('on');
    last = dot; dot.classList.add('on');
    told.textContent = dot.told; told.style.display = 'block';
    // Where it was is not where it will be, and a box near the edge is narrow.
    told.style.left = told.style.top = '0';
    var box = told.getBoundingClientRect(), x = event.clientX + 14, y = event.clientY + 14;
    if (x + box.width > innerWidth - 8) x = Math.max(8, innerWidth - box.width - 8);
    if (y + box.height > innerHeight - 8) y = Math.max(8, event.clientY - box.height - 14);
    told.style.left = x + 'px'; told.style.top = y + 'px';
  }
  function open() {
    var row = location.hash && document.getElementById(location.hash.slice(1));
    if (row && row.tagName === 'DETAILS') row.open = true;
  }
  document.addEventListener('pointerover', show);
  document.addEventListener('click', show);
  document.addEventListener('scroll', hide, true);
  addEventListener('hashchange', open);
  open();
})();
"""


def _variables(values: dict[str, str]) -> str:
    return "".join(f"--{name}: {value};" for name, value in values.items())


STYLE = (
    f":root {{ color-scheme: light dark; {_variables(_LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(_DARK)} }} }}{_RULES}"
)
KEYS = [*(f"var(--c{number})" for number in range(MOST + 1)), "var(--other)", "var(--none)"]
"""Colours of the classes: those of one value, then the collections."""
