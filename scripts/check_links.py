"""Check links of a built site and of Markdown files: every file and anchor that they name must exist.

    python scripts/check_links.py build/site README.md

Links to other sites are listed by ``--external`` and not visited.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
_MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")


class _Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.without_alt: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values[name] or "" for name in ("href", "src") if name in values]
        self.anchors |= {values[name] or "" for name in ("id", "name") if name in values}
        if tag == "img" and not values.get("alt"):
            self.without_alt.append(values.get("src") or "")


def main(words: list[str]) -> int:
    """Print links that lead nowhere; return 1 if there are any."""
    external = "--external" in words
    site, *texts = (Path(word) for word in words if not word.startswith("--"))
    pages = {path.resolve(): _Page(path) for path in sorted(site.rglob("*.html"))}
    problems: list[str] = []
    outside: set[str] = set()
    for path, page in pages.items():
        problems += [f"{path.relative_to(site.resolve())}: no alt text: {src}" for src in page.without_alt]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outside.add(link)
                continue
            # The page of missing pages is served at any depth, so its links begin at the root.
            name = unquote(parts.path)
            start = site.resolve() if name.startswith("/") else path.parent
            target = (start / name.lstrip("/")).resolve() if name else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                problems.append(f"{path.relative_to(site.resolve())}: {link}: no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                problems.append(f"{path.relative_to(site.resolve())}: {link}: no such heading")
    for text in texts:
        for link in _MARKDOWN_LINK.findall(text.read_text(encoding="utf-8")):
            parts = urlsplit(link)
            if parts.scheme:
                outside.add(link)
            elif parts.path and not (text.resolve().parent / parts.path).exists():
                problems.append(f"{text}: {link}: no such file")
    print("\n".join(problems), end="\n" if problems else "")
    if external:
        print("\n".join(sorted(outside)))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
