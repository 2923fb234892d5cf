"""Merge a generated card into the README on the Hub, which people may have edited."""

import re
from typing import Any

import yaml
from huggingface_hub import RepoCard
from huggingface_hub.utils import yaml_dump

START = "<!-- hf_spam: written by the tool, edit outside of it -->"
END = "<!-- hf_spam: end -->"
# A start marker and the nearest end marker, with no other start in between: unpaired markers are ignored.
SECTION = re.compile(f"{re.escape(START)}(?P<inside>(?:(?!{re.escape(START)}).)*?){re.escape(END)}", re.DOTALL)
KEYS = re.compile(r"\s*<!-- hf_spam: keys (?P<keys>.*) -->\s*")


def merge_card(ours: str, theirs: str | None) -> str:
    """Return our card with the text and metadata that people added to the existing one, if there is one.

    We own the metadata keys of our card and the section of the text between two markers. Both are replaced, even if
    someone edited them, and metadata keys that only an earlier card of ours had are removed. All other keys keep their
    values, and all other text stays unchanged, byte for byte. If the existing text has no section, ours is added at the
    end. Merging twice gives the same result as merging once.
    """
    metadata, text = split_card(ours)
    marked = SECTION.search(text)  # our card may already contain the markers
    inside = KEYS.sub("", marked["inside"] if marked else text, count=1).strip("\r\n")
    section = f"{START}\n<!-- hf_spam: keys {', '.join(metadata)} -->\n\n{inside}\n\n{END}"
    their_metadata, their_text = ({}, text if marked else "") if theirs is None else split_card(theirs)
    place = SECTION.search(their_text)
    keys = KEYS.match(place["inside"]) if place else None
    owned = {*metadata, *(keys["keys"].split(", ") if keys else ())}
    metadata |= {key: value for key, value in their_metadata.items() if key not in owned}
    if place:
        merged = their_text[: place.start()] + section + their_text[place.end() :]
    else:
        gap = "\n" * (2 - their_text.endswith("\n")) if their_text.strip() else "\n"
        merged = f"{their_text}{gap}{section}\n"
    return f"---\n{yaml_dump(metadata, sort_keys=False)}---\n{merged}"


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Split a card into metadata and text. Invalid metadata become text, because the Hub would reject the card."""
    try:
        card = RepoCard(text.removeprefix("\ufeff"))  # a byte order mark would hide the metadata
    except (yaml.YAMLError, ValueError, TypeError):
        return {}, text
    return card.data.to_dict(), card.text
