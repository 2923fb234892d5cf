"""A card of ours meets the README that is on the Hub already, which a person may have edited."""

import re
from itertools import pairwise
from typing import Any

import yaml
from huggingface_hub.utils import yaml_dump

START = "<!-- hf_spam: written by the tool, edit outside of it -->"
END = "<!-- hf_spam: end -->"
# From a start to the nearest end, with no other start between: a marker that has lost its partner spoils nothing.
SECTION = re.compile(f"{re.escape(START)}(?P<inside>(?:(?!{re.escape(START)}).)*?){re.escape(END)}", re.DOTALL)
KEYS = re.compile(r"\s*<!-- hf_spam: keys (?P<keys>.*) -->\s*")
FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(?P<yaml>(?:.*\n)*?)---[ \t]*(?:\r?\n|\Z)")


def merge_card(ours: str, theirs: str | None) -> str:
    """Our card with the words and the metadata of the one that is there.

    We own the metadata keys that our card has, and the section of the text between two markers. These are always ours,
    a licence or a list of tags that a person has changed included; keys that we wrote the last time and do not write
    any more go. Everything else is theirs and stays as it is, byte for byte: text outside of the section, other keys,
    comments. A text without a section gets ours at its end. Metadata that is no YAML becomes text, as the Hub would
    refuse the card for it. Merging again changes nothing.

    Args:
        ours: the card as it would be alone: metadata, then text, in which the markers may stand already.
        theirs: the card that is there; None for none.
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
    """The YAML at its head and the text below, either of which may be empty."""
    head = FRONT_MATTER.match(card)
    return (head["yaml"], card[head.end() :]) if head else ("", card)


def _mapping(text: str) -> dict[Any, Any] | None:
    """What a YAML text says, {} if nothing, None if it is none or no mapping."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError):  # a date that is none, a key that cannot be one
        return None
    return {} if data is None else data if isinstance(data, dict) else None


def _without(text: str, owned: set[str], metadata: dict[Any, Any]) -> str | None:
    """The lines of a YAML text that are not about the `owned` keys, to stand below `metadata`; None if it is broken."""
    data = _mapping(text)
    if data is None:
        return None
    rest = {key: value for key, value in data.items() if str(key) not in owned}
    kept = _other_lines(text, owned)
    fits = kept[-1:] in ("", "\n") and _mapping(_dump(metadata) + kept) == {**metadata, **rest}
    # Lines that cannot stand there (a mapping in braces, an anchor that is gone): at least what they say can.
    return kept if fits else _dump(rest)


def _other_lines(text: str, owned: set[str]) -> str:
    lines, root = text.splitlines(keepends=True), yaml.compose(text, yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    starts = [*(key.start_mark.line for key, _ in pairs), len(lines)]
    for (key, _), (start, end) in reversed(list(zip(pairs, pairwise(starts), strict=True))):
        while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
            end -= 1  # a comment above the next key, or at the end
        if str(key.value) in owned:
            del lines[start:end]
    return "".join(lines)


def _dump(metadata: dict[Any, Any]) -> str:
    return yaml_dump(metadata) if metadata else ""
