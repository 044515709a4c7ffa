"""`make site`: every page is there, links lead somewhere, and nothing is fetched."""

import functools
import http.server
import shutil
import threading
import time
from html.parser import HTMLParser
from itertools import product
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from tests.conftest import exhaustive_but
from tests.report.browser import Browser

SEEN = ("index", "twins", "claims", "config", "performance")


class Page(HTMLParser):
    """The ids of a page, what it links to and loads, and its text outside code."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.code = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        self.code += tag in ("pre", "code", "script", "style")
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("img", "script") and given.get("src"):
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(given["href"])

    def handle_endtag(self, tag):
        self.code -= tag in ("pre", "code", "script", "style")

    def handle_data(self, data):
        if not self.code:
            self.text.append(data)


@pytest.fixture(scope="module")
def site(run_python, tmp_path_factory):
    """The built site, its pages by path."""
    folder = tmp_path_factory.mktemp("site")
    built = run_python(["-m", "mkdocs", "build", "--site-dir", folder])
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {p: Page(p.read_text()) for p in folder.rglob("*.html")}
    return folder, pages


def broken(pages, page, link):
    """What a link leads to and is not there; empty if it is, or is elsewhere."""
    address, anchor = urldefrag(link)
    if urlsplit(address).scheme in ("https", "http", "mailto"):
        return ""
    target = (page.parent / unquote(address)).resolve() if address else page
    if not target.is_file():
        return f"{page.name}: {link}"
    known = pages[target].ids if target in pages else set()
    return f"{page.name}: {link}" if anchor and unquote(anchor) not in known else ""


def test_every_page_of_docs_is_a_page_of_the_site(site, root):
    folder, _ = site
    for page in (root / "docs").glob("*.md"):
        name = "index" if page.stem == "README" else page.stem
        assert (folder / f"{name}.html").exists(), page.name


def test_every_link_leads_to_a_page_and_its_anchor(site):
    _, pages = site
    of_404 = [p for p in pages if p.name == "404.html"]  # its links begin with /
    found = [
        wrong
        for page, its in pages.items()
        if page not in of_404
        for link in [*its.links, *its.loads]
        if (wrong := broken(pages, page, link))
    ]
    assert found == []


def test_a_link_or_an_anchor_that_leads_nowhere_would_be_found(site):
    folder, pages = site
    page = folder / "index.html"
    assert broken(pages, page, "quickstart.html") == ""
    assert broken(pages, page, "quickstarts.html") == "index.html: quickstarts.html"
    assert broken(pages, page, "faq.html#no-such") == "index.html: faq.html#no-such"


def test_source_files_that_pages_link_to_are_in_the_site(site):
    folder, pages = site
    linked = (folder / "project" / "torch_impl" / "step.py.html").read_text()
    assert "project/torch_impl/step.py.html" in pages[folder / "twins.html"].links
    assert "def" in linked and "train_step" in linked


def test_no_markdown_is_left_in_the_text(site):
    for page, its in site[1].items():
        text = "".join(its.text)
        assert "```" not in text and "|---" not in text and "](" not in text, page


def test_pages_load_nothing_from_elsewhere(site):
    for page, its in site[1].items():
        assert not [u for u in its.loads if urlsplit(u).scheme or u[:2] == "//"], page


def test_a_link_that_leads_nowhere_fails_the_build(run_python, root, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("mkdocs.yml", "docs/site.py", "docs/site.css"):
        shutil.copy(root / name, tmp_path / name)
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        (tmp_path / name).write_text("# Here\n")
    (docs / "README.md").write_text("# Docs\n\n[errors](faq.md)\n")
    links = "[gone](../gone.py) [there](../README.md)"
    (docs / "faq.md").write_text(f"# Errors\n\n{links}\n")
    built = run_python(["-m", "mkdocs", "build"], cwd=tmp_path)
    assert built.returncode == 1
    assert "gone.py" in built.stderr and "../README.md" not in built.stderr


@pytest.fixture(scope="module")
def served(site):
    """The address of the site on loopback, as a web server shows it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site[0]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(chromium, tmp_path_factory):
    with Browser(chromium, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize(
    ("page", "width"), exhaustive_but([("twins", 400)], product(SEEN, (1280, 400)))
)
def test_a_page_fits_its_window_and_asks_for_nothing_else(browser, served, page, width):
    browser.size(width)
    browser.requests.clear()
    browser.call("Page.navigate", url=f"{served}/{page}.html")
    until = time.monotonic() + 30
    while not browser.run(
        "document.readyState === 'complete' && location.protocol === 'http:'"
    ):
        assert time.monotonic() < until
    assert browser.run("document.documentElement.scrollWidth") <= width
    own = served, "data:"
    assert [url for url in browser.requests if not url.startswith(own)] == []
    assert browser.complaints == []
