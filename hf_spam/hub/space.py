"""Build a page that runs a model in the browser, and a static Space with that page.

The page is one HTML file without libraries that sends nothing anywhere. It contains the packed model and the
network in JavaScript (`spam_gpt.js`), which unpacks it.
"""

import base64
import hashlib
import json
import os
import re
from pathlib import Path

import jinja2
import torch
from huggingface_hub import SpaceCard, SpaceCardData

from ..conversion.loading import CARD, find_file, load_classifier, load_tokenizer, named_model
from ..conversion.onnx import is_onnx
from ..files import public, write_file
from .card import inherited
from .packing import pack

FOLDER = Path(__file__).parent
PAGE, NETWORK, CARD_TEMPLATE = FOLDER / "demo.html", FOLDER / "spam_gpt.js", FOLDER / "space_card_template.md"
EXAMPLES = (
    ("prize", "Free entry! Txt WIN to 10010 to claim your prize of £2000 now"),
    ("friend", "Running late, start without me. Back around 8"),
    ("parcel", "Your parcel is held: pay the customs fee of 1.99 at http://post-redelivery.example within 24 h"),
    ("code", "Your code is 481 923. We will never ask you for it."),
    ("“Mum”", "Hi mum, I dropped my phone, this is my new number. Can you send 400 today? I will pay you back"),
    ("bank", "Su cuenta ha sido bloqueada por seguridad. Verifique sus datos hoy en http://banco-seguro.example"),
    ("hidden letters", "Frее еntry! Сlаіm yоur prіzе оf £2000 nоw"),  # some letters are Cyrillic
    ("several", "\n".join(["Are we still on for Friday?", "URGENT! You have won a 1 week FREE membership, call 09061",
                           "Dentist: your appointment is on Tuesday at 15:10", "Earn 500 a day from home, msg us"])),
)  # fmt: skip


def write_demo(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Write or replace an HTML file: a page that runs a model in the browser."""
    page = render_demo(source)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_file(Path(path), page.encode())


def space_files(source: str | os.PathLike, *, model_id: str | None = None) -> dict[str, bytes]:
    """Return the files of a static Space: the page and a card. Arguments are as for `render_demo`."""
    about = SpaceCardData(
        title="Is it spam?",
        emoji="📱",
        colorFrom="blue",
        colorTo="yellow",
        sdk="static",
        pinned=False,
        models=[model_id] if model_id else None,
        short_description="A small GPT that finds spam, inside the page",  # at most 60 characters
        **{key: value for key, value in inherited(find_file(source, CARD)).items() if key.startswith("license")},
    )
    model = f"[{model_id}](https://huggingface.co/{model_id})" if model_id else "a small GPT"
    card = SpaceCard.from_template(about, template_path=str(CARD_TEMPLATE), model=model)
    return {"index.html": render_demo(source, model_id=model_id).encode(), "README.md": str(card).encode()}


def render_demo(source: str | os.PathLike, *, model_id: str | None = None) -> str:
    """Return the page with a model, as HTML, which links to the repository `model_id` on the Hub."""
    name = "the bundled model of hf_spam" if named_model(source) != source else public(os.fspath(source))
    if is_onnx(source):
        raise ValueError(f"{os.fspath(source)!r} is an ONNX export: make the demo of the model it was made from.")
    model, tokenizer = load_classifier(source, dtype=torch.float32), load_tokenizer(source)
    try:
        layout, weights = pack(model, tokenizer)
    except ValueError as error:
        raise ValueError(f"The page cannot run the model {name!r}: {error}.") from None
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(PAGE.read_text(encoding="utf-8")).render(
        model_id=model_id,
        name=name,
        parameters=model.num_parameters(),
        config=layout["config"],
        layout=json.dumps(layout, separators=(",", ":")).replace("<", r"\u003c"),  # can stand in a script element
        examples=EXAMPLES,
        network=NETWORK.read_text(encoding="utf-8"),
        weights="@WEIGHTS@",
    )
    return _with_hashes(page).replace("@WEIGHTS@", weights)


def _with_hashes(page: str) -> str:
    """Allow the scripts and the style of a page, and no others, in its Content-Security-Policy."""
    for element in ("script", "style"):
        texts = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        page = page.replace(f"@{element.upper()}S@", " ".join(f"'sha256-{digest}'" for digest in digests))
    return page
