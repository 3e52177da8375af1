"""Opens a page in a headless browser, lets a script act on it as a user would, and gives back what the script noted."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

_LISTENERS = """<script>
window.troubles = [];
window.addEventListener("error", (e) => troubles.push(String(e.message)));
window.addEventListener("unhandledrejection", (e) => troubles.push(String(e.reason)));
document.addEventListener("securitypolicyviolation", (e) => troubles.push("blocked " + e.blockedURI + " by " + e.violatedDirective));
for (const kind of ["error", "warn"]) { const said = console[kind]; console[kind] = (...words) => { troubles.push(words.join(" ")); said(...words); }; }
</script>"""

_DRIVER = """<script type="module">
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);
const wait = (ms = 400) => new Promise((done) => setTimeout(done, ms));
const node = (name) => one(`.node[data-name="${name}"]`);
const shown = (selector) => all(selector).filter((e) => !e.classList.contains("gone")).length;
const set = async (id, value) => {
  const input = document.getElementById(id);
  if (input.type === "checkbox") input.checked = value; else input.value = value;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  await wait(50);
};
const middle = (element) => { const b = element.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; };
const press = (element, type, x, y) => element.dispatchEvent(new PointerEvent(type, { bubbles: true, clientX: x, clientY: y, button: 0 }));
// What is really on top at the element's middle gets the click.
const click = async (element) => {
  const [x, y] = middle(element.querySelector(".shape") || element), top = document.elementFromPoint(x, y);
  press(top, "pointerdown", x, y);
  press(top, "pointerup", x, y);
  top.dispatchEvent(new MouseEvent("click", { bubbles: true, clientX: x, clientY: y }));
  await wait();
};
const key = async (name, more = {}) => {
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true, ...more }));
  await wait();
};
const noted = {};
try {
  await wait();
  %s
} catch (error) { troubles.push(`driver: ${error.stack}`); }
noted.troubles = troubles;
noted.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
const out = document.createElement("pre");
out.id = "noted-by-the-driver";
out.textContent = JSON.stringify(noted);
document.body.replaceChildren(out);
</script>"""


def find_browser() -> str:
    """Give the path of Chromium or Chrome; skip the test where there is none."""
    named = os.environ.get("BROWSER_PATH")
    found = [path for path in (named, *map(shutil.which, _NAMES)) if path and Path(path).exists()]
    if not found:
        pytest.skip(f"no browser: BROWSER_PATH names none, and none of {', '.join(_NAMES)} is installed")
    return found[0]


def dump_dom(page: Path, folder: Path) -> str:
    """Give the page's DOM after its scripts have run, as HTML."""
    done = subprocess.run(
        [
            find_browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}",
            "--force-prefers-reduced-motion",  # without a screen there are no frames to glide over
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--window-size=1600,1000",
            "--virtual-time-budget=30000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def drive(page: Path, folder: Path, script: str) -> dict[str, Any]:
    """Run a script on a copy of the page.

    The copy's policy lets the script run; all else of it stays.

    Args:
        page: The page.
        folder: Where the copy may be.
        script: JavaScript; it notes what it sees in the object `noted`.
    """
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", text)
    text = text.replace("<head>", "<head>" + _LISTENERS, 1)
    text = text.replace("</body>", _DRIVER % script + "</body>")
    copy = folder / "driven.html"
    copy.write_text(text, encoding="utf-8")
    dom = dump_dom(copy, folder)
    found = re.search(r'<pre id="noted-by-the-driver">(.*?)</pre>', dom, re.DOTALL)
    assert found, f"the driver did not end; the page is {dom[:2000]}"
    return json.loads(html.unescape(found[1]))
