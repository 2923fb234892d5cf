"""Random texts of characters that tokenizers may read in different ways."""

import random

SPACES = [*" \t\n\x0b\x0c\r\x1c\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000", "  ", "\r\n"]
INVISIBLE = [*"\xad\u180e\u200b\u200d\u2060\ufe0f\ufeff\U000e0041"]
LETTERS = [*"aeoszAEOZаеорсАВеѕіјИъджαοΑΒΩſéñüßıİǄﬁＡ𝐀Ⓐ𝟙½Ⅷ①٣ابא中ンก", "e\u0301", "\u1100\u1161\u11a8", "ﾊﾟ", "क्ष"]
MARKS = [*"\u0301\u0323\u0345\u0308\u05b0\u0f71\u3099\u20e3\u0338"]
SIGNS = ["'s", "'S", "'t", "'re", "'ll", "'d", "'", "’s", "!", "!!", "...", "£", "$", "€", "🎉", "👨\u200d👩", "🇯🇵"]
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|endoftext"]
CODES = [*"\x00\x7f\ufffd\uffff\ue000\U0010ffff\ud800\udc00\ud83d"]


def tricky_texts(count: int) -> list[str]:
    """Return random texts, and words of up to 20 look-alikes on either side of a Latin letter."""
    draw = random.Random(0)
    pools = [SPACES, INVISIBLE, LETTERS, LETTERS, MARKS, SIGNS, SPECIAL, CODES]
    texts = []
    for _ in range(count):
        used = draw.sample(pools, draw.randint(1, 4))
        texts.append("".join(draw.choice(draw.choice(used)) for _ in range(draw.randint(1, 40))))
    return texts + [word for n in range(20) for word in ("а" * n + "a", "a" + "а" * n, "a" + "дж" * n + "а")]
