"""Preprocessor of docs/book.toml: links that are right between the files of the repository stay right in the book.

The book lies one folder deeper (target/book) than its source (docs), so a link out of docs needs one more "../". Its dot is
escaped where it leads to a .md file, which mdBook would take for a page of its own and call .html. A folder's README.md is
its index.html in the book.
"""

import json
import re
import sys

LINK = re.compile(r"\]\(((?:\.\./)*)([^)\s:]+)\)")


def visit(items):
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            chapter = item["Chapter"]
            depth = (chapter["path"] or "").count("/")

            def in_book(link):
                up, path = link.groups()
                if up.count("/") <= depth:
                    return f"]({up}{path.replace('README.md', 'index.md')})"
                return f"](../{up}{path.replace('.md', '%2Emd')})"

            chapter["content"] = LINK.sub(in_book, chapter["content"])
            visit(chapter["sub_items"])


if sys.argv[1:2] == ["supports"]:
    sys.exit(0)
_, book = json.load(sys.stdin)
visit(book["items"])
json.dump(book, sys.stdout)
