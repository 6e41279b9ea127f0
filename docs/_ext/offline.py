"""Fail the build if a page would fetch anything from a network when it is opened."""

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

REMOTE = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(?:https?:)?//[^\"]*\""
    r"|<link[^>]*\shref=\"(?:https?:)?//[^\"]*\""
    r"|(?:@import|url\()\s*[\"']?(?:https?:)?//[^\"')]*"
)
"""Scripts, images, style sheets and fonts; links that a reader follows are fine."""


def find_remote_assets(folder: Path) -> list[str]:
    """List what the pages and style sheets below a folder would fetch."""
    files = [*folder.rglob("*.html"), *folder.rglob("*.css")]
    return [
        f"{path.relative_to(folder)}: {match[0]}"
        for path in files
        for match in REMOTE.finditer(path.read_text())
    ]


def check_assets(app: Sphinx, exception: Exception | None) -> None:
    """Refuse remote assets once all pages are written."""
    if exception is not None or app.builder.format != "html":
        return
    if found := find_remote_assets(Path(app.outdir)):
        raise SphinxError("remote assets:\n" + "\n".join(found))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the check."""
    app.connect("build-finished", check_assets)
    return {"parallel_read_safe": True}
