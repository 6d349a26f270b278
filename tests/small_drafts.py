"""Drafts with random edits."""

from small_models import tokenizer


def edited(ids, count, draw, kind=None, least=2):
    """`count` one-token edits (fewer in a short text), at least `least` tokens apart."""
    out, size = list(ids), len(tokenizer())
    places = list(range(1, max(len(out) - 1, 1), least))
    for at in sorted(draw.sample(places, min(count, len(places))), reverse=True):
        how = kind or draw.choice(["changed", "left_out", "put_in"])
        if how == "changed":
            out[at] = 2 + (out[at] - 1) % (size - 2)
        elif how == "put_in":
            out.insert(at, draw.randrange(2, size))
        else:
            del out[at]
    return out
