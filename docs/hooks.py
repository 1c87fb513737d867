"""What the site makes of the pages: mkdocs calls these by their names.

The first page is the README. A link to a file outside docs/ has no page in the site, so that there
it is its text alone; tests/docs/test_pages.py asks that the file is in the repository.
"""

import re
from pathlib import Path

_README = Path(__file__).parents[1] / "README.md"


_OUTSIDE = re.compile(r"!?\[([^]]*)\]\(\.\./[^)]*\)")
_BESIDE = re.compile(r"(?<!!)\[([^]]*)\]\((?!https?:)([A-Z][^)]*|tour\.ipynb)\)")


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The markdown of a page as the site shows it."""
    if page.file.src_uri == "index.md":
        readme = _README.read_text(encoding="utf-8")
        return _BESIDE.sub(r"\1", readme.replace("](docs/", "]("))
    if "/" in page.file.src_uri:
        return markdown
    return _OUTSIDE.sub(r"\1", markdown)
