"""Characters of text from outside that no page and no figure may hold."""

import re

# C0 and C1 controls except tab and newline, the bidirectional overrides (which could
# make a page read otherwise than it is written), lone surrogates.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def replace_controls(text: str) -> str:
    """Replace each control character by U+FFFD."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
