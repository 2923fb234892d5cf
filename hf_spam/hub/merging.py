"""Merge a generated card into the README on the Hub, which people may have edited."""

import re
from itertools import pairwise
from typing import Any

import yaml
from huggingface_hub.utils import yaml_dump

START = "<!-- hf_spam: written by the tool, edit outside of it -->"
END = "<!-- hf_spam: end -->"
# A start marker and the nearest end marker, with no other start in between: unpaired markers are ignored.
SECTION = re.compile(f"{re.escape(START)}(?P<inside>(?:(?!{re.escape(START)}).)*?){re.escape(END)}", re.DOTALL)
KEYS = re.compile(r"\s*<!-- hf_spam: keys (?P<keys>.*) -->\s*")
FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(?P<yaml>(?:.*\n)*?)---[ \t]*(?:\r?\n|\Z)")


def merge_card(ours: str, theirs: str | None) -> str:
    """Return our card with the text and metadata that people added to the existing one.

    We own the metadata keys of our card and the section of the text between two markers. Both are replaced, even if
    someone edited them, and metadata keys that only an earlier card of ours had are removed. Everything else stays
    unchanged, byte for byte: text outside the section, other keys, comments. If the existing text has no
    section, ours is added at the end. Metadata that is not valid YAML becomes text, because the Hub would reject the
    card. Merging twice gives the same result as merging once.

    Args:
        ours: Our card: metadata, then text, which may already contain the markers.
        theirs: Existing card, `None` if there is none.
    """
    yaml_text, text = _split(ours)
    metadata = _mapping(yaml_text) or {}
    marked = SECTION.search(text)
    inside = KEYS.sub("", marked["inside"] if marked else text, count=1).strip("\r\n")
    section = f"{START}\n<!-- hf_spam: keys {', '.join(map(str, metadata))} -->\n\n{inside}\n\n{END}"
    their_yaml, their_text = _split(theirs) if theirs is not None else ("", text if marked else "")
    place = SECTION.search(their_text)
    keys = KEYS.match(place["inside"]) if place else None
    owned = {*map(str, metadata), *(keys["keys"].split(", ") if keys else ())}
    rest = _without(their_yaml, owned, metadata)
    if rest is None:
        rest, their_text = "", theirs
        place = SECTION.search(their_text)
    if place:
        merged = their_text[: place.start()] + section + their_text[place.end() :]
    else:
        gap = "\n" * (2 - their_text.endswith("\n")) if their_text.strip() else "\n"
        merged = f"{their_text}{gap}{section}\n"
    return f"---\n{_dump(metadata)}{rest}---\n{merged}"


def _split(card: str) -> tuple[str, str]:
    """Split a card into its YAML and the text below. Either may be empty."""
    head = FRONT_MATTER.match(card)
    return (head["yaml"], card[head.end() :]) if head else ("", card)


def _mapping(text: str) -> dict[Any, Any] | None:
    """Parse YAML; return `None` if it is invalid or not a mapping."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError):  # an impossible date, an unhashable key
        return None
    return {} if data is None else data if isinstance(data, dict) else None


def _without(text: str, owned: set[str], metadata: dict[Any, Any]) -> str | None:
    """Return a YAML text without the `owned` keys, to follow `metadata`; `None` if it is invalid."""
    data = _mapping(text)
    if data is None:
        return None
    rest = {key: value for key, value in data.items() if str(key) not in owned}
    kept = _other_lines(text, owned)
    fits = kept[-1:] in ("", "\n") and _mapping(_dump(metadata) + kept) == {**metadata, **rest}
    # Lines that would parse differently there, such as a mapping in braces, are rewritten with the same values.
    return kept if fits else _dump(rest)


def _other_lines(text: str, owned: set[str]) -> str:
    """Return the lines of a YAML text that do not belong to the `owned` keys."""
    lines, root = text.splitlines(keepends=True), yaml.compose(text, yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    starts = [*(key.start_mark.line for key, _ in pairs), len(lines)]
    for (key, _), (start, end) in reversed(list(zip(pairs, pairwise(starts), strict=True))):
        while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
            end -= 1  # a comment belongs to the key below it
        if str(key.value) in owned:
            del lines[start:end]
    return "".join(lines)


def _dump(metadata: dict[Any, Any]) -> str:
    return yaml_dump(metadata) if metadata else ""
