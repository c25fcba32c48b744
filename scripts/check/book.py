"""Checks that every link of a built book (mdbook build docs) leads to a file and, where it has an anchor, to a place in it.

usage: book.py target/book
"""

import pathlib
import sys
import urllib.parse
from html.parser import HTMLParser


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.add(attributes.get("id"))
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    # 404.html is served for any address, so its links begin at the server's root.
    pages = {path: Page(path) for path in sorted(root.rglob("*.html")) if path.name != "404.html"}
    n_links, wrong = 0, []
    for path, page in pages.items():
        for link in page.links:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            n_links += 1
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            anchors = pages[target].anchors if target in pages else set()
            if not target.exists() or (url.fragment and target in pages and url.fragment not in anchors):
                wrong.append(f"{path.relative_to(root)}: no target for the link {link}")
    print("\n".join(wrong) if wrong else f"{len(pages)} pages, {n_links} links: all lead somewhere")
    sys.exit(bool(wrong) or n_links < len(pages))


main()
