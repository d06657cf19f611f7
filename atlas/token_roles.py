"""What a token position holds: the names of the roles, and of their unions."""

from __future__ import annotations

ROLES = ("pad", "text", "special", "image", "video", "audio")
"""What a position of a batch is; stored as an index into this."""

SPECIAL_TEXT = "special_text"
UNIONS = {SPECIAL_TEXT: ("text", "special")}
