"""Looking up a place in a draft or in the text, and the passes that it saves."""

from itertools import chain

import numpy as np
import pytest

from benchmarks.draft_calls import Text, rewritten
from rlmec.lm.draft_lookup import longest_match

VOCABULARY = 400
END = 1


def found(source, ending, near, stop=None):
    """Place and length of the match in one source."""
    stop = len(source) if stop is None else stop
    arrays = ([source], [ending], [stop], [near])
    place, length = longest_match(*(np.array(a) for a in arrays))
    return place[0], length[0]


@pytest.mark.parametrize(
    ("ending", "near", "wanted"),
    [
        ([9, 9, 9], 4, (4, 0)),  # 9 does not occur: the place stays
        ([9, 9, 2], 0, (2, 1)),  # before tokens 2 and 6: 2 is nearer to 0
        ([9, 9, 2], 6, (6, 1)),
        ([9, 9, 2], 4, (6, 1)),  # equally near: the later
        ([9, 5, 2], 0, (6, 2)),  # 5 2 is longer than 2
        ([4, 5, 2], 0, (6, 3)),
        ([9, 9, 7], 0, (0, 0)),  # no token follows 7
        ([7, 1, 2], 0, (2, 2)),  # nothing is before the first token
    ],
)
def test_matches_worked_by_hand(ending, near, wanted):
    assert found([1, 2, 3, 4, 5, 2, 6, 7], ending, near) == wanted


def test_matches_are_the_longest_and_nearest():
    """Against all places one by one, 40 rows at once."""
    draw = np.random.default_rng(5)
    sources = draw.integers(0, 3, (40, 17))
    endings = draw.integers(0, 3, (40, 4))
    stops = draw.integers(0, 18, 40)
    near = draw.integers(0, 18, 40)

    def length(source, ending, place):
        same = 0
        while same < min(4, place) and source[place - 1 - same] == ending[3 - same]:
            same += 1
        return same

    places, lengths = longest_match(sources, endings, stops, near)
    for row in range(40):
        keys = [
            (length(sources[row], endings[row], p), -abs(p - near[row]), p)
            for p in range(stops[row])
        ]
        best = max(keys, default=(0, 0, 0))
        assert lengths[row] == best[0]
        assert places[row] == (best[2] if best[0] else near[row])


# --- passes, with a network that writes a given text ---

LINES = [[10 * line + i for i in range(2, 10)] for line in range(1, 9)]  # 8 lines of 8 tokens
TARGET = [*chain.from_iterable(LINES), END]
QUESTION = [201, 202, 203]


def passes(draft, target=TARGET, prompt=QUESTION):
    return rewritten([Text(prompt, draft, target)], VOCABULARY).calls


def lines(*numbers):
    return [*chain.from_iterable(LINES[i] for i in numbers), END]


def test_an_exact_draft_takes_one_pass():
    assert passes(TARGET) == 1


def test_a_replaced_token_takes_a_second_pass():
    """The first pass writes up to the edit and the network's own token, the second all the rest."""
    assert passes([*TARGET[:20], 300, *TARGET[21:]]) == 2


def test_a_token_that_is_put_into_the_draft_takes_a_second_pass():
    """The network's own token is the next one of the draft."""
    assert passes([*TARGET[:20], 300, *TARGET[20:]]) == 2


def test_a_token_left_out_of_the_draft_takes_a_third_pass():
    """It looks like a replaced one, so that the second pass only writes the next token."""
    assert passes([*TARGET[:20], *TARGET[21:]]) == 3


@pytest.mark.parametrize(
    ("draft", "target", "prompt", "most"),
    [
        # Two lines are swapped. The pointer fails twice, then the draft is looked up: once for each
        # of the two lines and once for the line after them, with guesses that grow from 4 tokens.
        (lines(0, 1, 3, 2, 4, 5, 6, 7), TARGET, QUESTION, 8),
        (lines(4, 5, 6, 7, 0, 1, 2, 3), TARGET, QUESTION, 8),
        # The text says two lines three times, the draft once.
        (lines(0, 1, 2, 3), lines(0, 1, 2, 1, 2, 1, 2, 3), QUESTION, 7),
        # Three lines that the draft lacks are in the prompt.
        (lines(0, 4), lines(0, 1, 2, 3, 4), [*QUESTION, *lines(1, 2, 3), 204], 5),
    ],
)
def test_a_lost_place_is_looked_up(draft, target, prompt, most):
    """By the Levenshtein table alone, these take 25, 40, 36 and 28 passes."""
    assert passes(draft, target, prompt) <= most


def test_a_useless_draft_takes_a_pass_per_token_and_no_guess():
    made = rewritten([Text(QUESTION, [300] * 40, TARGET)], VOCABULARY)
    assert made.calls == made.fed + 1 == len(TARGET)


def test_a_batch_takes_hardly_more_passes_than_its_slowest_row():
    """All rows are in every pass, with guesses of one width, so that none waits for another."""
    drafts = [
        TARGET,
        [*TARGET[:20], 300, *TARGET[21:]],
        [*TARGET[:40], *TARGET[41:]],
        lines(0, 1, 3, 2, 4, 5, 6, 7),
    ]
    together = rewritten([Text(QUESTION, draft, TARGET) for draft in drafts], VOCABULARY)
    assert together.calls <= max(passes(draft) for draft in drafts) + 2
