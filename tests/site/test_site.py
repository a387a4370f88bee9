"""The built site in a browser: every page opens, loads nothing from elsewhere, and reads on a phone."""

import functools
import http.server
import re
import runpy
import shutil
import threading
import types
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from docutils import nodes, utils
from playwright import sync_api
from sphinx.addnodes import download_reference

ROOT = Path(__file__).parent.parent.parent
SITE = ROOT / "build" / "docs"
PHONE = {"width": 390, "height": 844}
FLAGS = [
    "--no-sandbox",  # of which root has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if "_static" not in path.parts)
LINKS = "elements => elements.map(element => element.href)"
IDS = "elements => elements.map(element => element.id)"
# what of a page reaches over the edge, and is in no element that scrolls for itself
WIDER = """() => {
    const edge = document.documentElement.clientWidth + 1;
    const scrolls = e => /auto|scroll/.test(getComputedStyle(e).overflowX);
    const inside = e => e && (scrolls(e) || inside(e.parentElement.closest("article *")));
    const wider = e => e.getBoundingClientRect().right > edge && !inside(e);
    return [...document.querySelectorAll("article *")].filter(wider).slice(0, 5).map(e => e.outerHTML.slice(0, 100));
}"""


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def end_headers(self):
        self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()


@pytest.fixture(scope="module")
def origin():
    assert PAGES, "there is no site: make docs builds it"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(SITE)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "this test needs Chromium: apt-get install chromium"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(browser, origin):
    """A tab of a phone's width; ``tab.faults`` collects foreign requests, failures and messages of the console."""
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    page.faults = []

    def note(request):
        if not request.url.startswith((origin, "data:")):
            page.faults.append(f"asks for {request.url}")

    page.on("request", note)
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on(
        "response", lambda answer: page.faults.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
    )
    yield page
    context.close()


@pytest.fixture(scope="module")
def found(tab, origin):
    """What each page has: its ids and links, formulas without a size, and elements wider than a phone."""
    seen = {}
    for page in PAGES:
        tab.faults.clear()
        tab.goto(origin + page)
        seen[page] = {
            "faults": list(tab.faults),
            "ids": set(tab.eval_on_selector_all("[id]", IDS)),
            "links": tab.eval_on_selector_all("a[href]", LINKS),
            "formulas": tab.eval_on_selector_all("math", "all => all.map(m => m.getBoundingClientRect().height)"),
            "raw": tab.evaluate(r"() => document.querySelector('main')?.innerText.match(/\\(frac|sum|log)/g)"),
            "wider": tab.evaluate(WIDER),
        }
    return seen


def problems(found, key):
    return {page: entry[key] for page, entry in found.items() if entry[key]}


def test_pages_load_without_faults(found):
    """No request to another host, no failed request, no message in the console.

    Seen to fail: with a script from elsewhere, with an image that is missing, and with an exception in a script.
    """
    assert len(found) > 100
    assert not problems(found, "faults")


def test_formulas(found):
    """They are MathML of some height. Seen to fail: with TeX that is left in the text."""
    assert sum(len(entry["formulas"]) for entry in found.values()) > 100
    assert not {page for page, entry in found.items() if any(height < 5 for height in entry["formulas"])}
    assert not problems({page: entry for page, entry in found.items() if not page.startswith("_modules")}, "raw")


def test_links_and_anchors(found, origin):
    """Internal links lead to files, their fragments to ids. Seen to fail: with a misspelt anchor."""
    broken = set()
    for page, entry in found.items():
        for link in entry["links"]:
            address, fragment = urldefrag(urljoin(origin + page, link))
            if address.startswith(origin):
                name = unquote(address.removeprefix(origin).partition("?")[0])
                if name not in found and not (name and (SITE / name).is_file()):
                    broken.add((page, link))
                elif fragment and name in found and unquote(fragment) not in found[name]["ids"]:
                    broken.add((page, link))
            else:
                assert re.match(r"https://|mailto:", address), (page, link)
    assert not broken


def test_phone(found):
    """No page is wider than the screen. Seen to fail: with long names that do not break."""
    assert not problems(found, "wider")


def test_search(tab, origin):
    """A function's name finds its page first. Seen to fail: with an empty index."""
    tab.faults.clear()
    tab.goto(f"{origin}search.html?q=jensen_shannon_and_grad")
    first = tab.wait_for_selector("#search-results li a")
    assert "fastce.jensen_shannon_and_grad" in first.get_attribute("href")
    assert not tab.faults


def test_dark(tab, origin):
    """The colours follow the system, and formulas the colours."""
    tab.emulate_media(color_scheme="dark")
    tab.goto(origin + "generated/fastce.cross_entropy.html")
    assert tab.evaluate("() => document.documentElement.dataset.theme") == "dark"
    colours = tab.evaluate(
        "() => [document.body, document.querySelector('math')].map(e => getComputedStyle(e))"
        ".map((style, i) => i ? style.color : style.backgroundColor)"
    )
    background, text = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert text - background > 300


def test_links_to_the_repository():
    """Once there is its URL, files outside docs/ are linked there. Seen to fail: with another folder's name."""
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    conf["link_outside"].__globals__["REPOSITORY"] = "https://example.org/blob/main"
    document = utils.new_document("guide/first-loss.md")
    document += nodes.paragraph("", "", download_reference("", "a file", reftarget="../../Makefile"))
    app = types.SimpleNamespace(srcdir=ROOT / "docs", env=types.SimpleNamespace(docname="guide/first-loss"))
    conf["link_outside"](app, document)
    (link,) = document.findall(nodes.reference)
    assert link["refuri"] == "https://example.org/blob/main/Makefile" and link.astext() == "a file"
