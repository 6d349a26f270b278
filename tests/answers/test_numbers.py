"""The number grammar: forms that people and models write, and what makes a number unreadable."""

from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlmec.answers.number_words import SCALES
from rlmec.answers.numbers import parse_number

FIXED = settings(derandomize=True, deadline=None, max_examples=150)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", 18),
        ("3.0", 3),
        ("1,000", 1000),
        ("1{,}000", 1000),
        ("1,234,567.50", Fraction("1234567.5")),
        ("$ 5", 5),
        ("$-5", -5),
        ("-$5.25", Fraction("-5.25")),
        ("- 5", -5),
        ("\u22125", -5),
        (".5", Fraction(1, 2)),
        ("1/2", Fraction(1, 2)),
        ("1 / 2", Fraction(1, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        ("50%", 50),
        (r"50\%", 50),
        ("12 apples", 12),
        ("12 m^2", 12),
        ("**18**", 18),
        ("$18$", 18),
        ("5kg", 5),
        ("60 km/h", 60),
        ("3 hours. Then 5 more", 3),
        ("1e3", 1000),
        ("10,80", None),
        ("1/0", None),
        ("2 or 3", None),
        ("x=5", 5),
        ("3:30", None),
        ("12 + 5", None),
        ("6*3", None),
        ("9**2", None),
        ("five", None),
        ("", None),
    ],
)
def test_numbers(text, number):
    assert parse_number(text) == number


def test_bare_numbers_have_no_words_beside_them():
    assert parse_number("$1,200", bare=True) == 1200
    assert parse_number("12 apples", bare=True) is None
    assert parse_number("12kg", bare=True) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("five (5)", 5),
        ("5, i.e. five", 5),
        ("3\xbd", Fraction(7, 2)),
        ("3 \xbd", Fraction(7, 2)),
        ("\xbd", Fraction(1, 2)),
        ("-3\xbd", Fraction(-7, 2)),
        ("3\\frac12", Fraction(7, 2)),
        ("3 \\dfrac{1}{2}", Fraction(7, 2)),
        ("\\frac{1}{2}3", None),
        ("3\\frac{3}{2}", None),
        ("-\\frac{1}{2}", Fraction(-1, 2)),
        ("\\frac{-1}{2}", Fraction(-1, 2)),
        ("3 and 1/2", Fraction(7, 2)),
        ("3 and a half", Fraction(7, 2)),
        ("3-1/2", None),
        ("negative five", None),
        ("negative 5", -5),
        ("minus $5", -5),
        ("minus -5", None),
        ("positive 5", 5),
        ("\u22125", -5),
        ("\u20145", -5),
        ("\uff0d5", -5),
        ("2.5 million", 2500000),
        ("$2.5M", 2500000),
        ("2.5M", 2500000),
        ("$3B", 3000000000),
        ("3 B", 3),
        ("5 m", 5),
        ("10 k", 10000),
        ("10K", 10000),
        ("5 kg", 5),
        ("5 hundred", 500),
        ("5 hundred thousand", 500000),
        ("3 zillion", None),
        ("5 billion dollars", 5000000000),
        ("2 dozen eggs", 24),
        ("2.5 dozen", 30),
        ("$3 per dozen", 3),
        ("1 1/2 million", 1500000),
        ("$1.5 million", 1500000),
        ("3 lakh", 300000),
        ("5 dollars (in millions)", None),
        ("5 (million)", None),
        ("4!", None),
        ("12 apples!", 12),
        ("not 4", None),
        ("isn't 4", None),
        ("never 4", None),
        ("5, not 4", 5),
        ("4 is wrong", None),
        ("less than 5", None),
        ("twice 5", None),
        ("half of 6", None),
        ("5 squared", None),
        ("5\xb2", None),
        ("5^2", None),
        ("2^{10}", None),
        ("10^3", 1000),
        ("10\xb3", 1000),
        ("5 m\xb2", 5),
        ("5 cm^2", 5),
        ("5\\,\\text{cm}^2", 5),
        ("5\\text{ cm}^{2}", 5),
        ("5 cm^3", 5),
        ("5 m2", 5),
        ("1.5e2", 150),
        ("3e-3", Fraction(3, 1000)),
        ("1.5 x 10^3", 1500),
        ("1.5\\times10^{3}", 1500),
        ("1.5\xd710\u207b\xb3", Fraction(3, 2000)),
        ("3 * 4", None),
        ("3\\cdot 4", None),
        ("12-5", None),
        ("5\u201310", None),
        ("5 - 10", None),
        ("- 5", -5),
        ("x - 5", None),
        ("x-5", None),
        ("1 000", 1000),
        ("1 000 000", 1000000),
        ("1\u202f000", 1000),
        ("1'000", 1000),
        ("1\\,000", 1000),
        ("1,00", None),
        ("10,80", None),
        ("1 00", None),
        ("14 {, }916", 14916),
        ("11,\\! 111,\\! 100", 11111100),
        ("5\u20ac", 5),
        ("\u20ac5", 5),
        ("5 \u20ac", 5),
        ("USD 5", 5),
        ("5 USD", 5),
        ("\xa35", 5),
        ("\\$5", 5),
        ("$5.00", 5),
        ("US$5", 5),
        ("5 percent", 5),
        ("50\\%", 50),
        ("90\xb0", 90),
        ("90^\\circ", 90),
        ("90^{\\circ}", 90),
        ("5 \xb0C", 5),
        ("x = 5", 5),
        ("x=5", 5),
        ("3*4=12", 12),
        ("5 = x", 5),
        ("x = 5 and y = 3", None),
        ("x \u2260 5", None),
        ("x<5", None),
        ("\u22655", None),
        ("\u22483.5", Fraction(7, 2)),
        ("about 3.5", Fraction(7, 2)),
        ("x \\approx 3.5", Fraction(7, 2)),
        ("1/3 \u2248 0.33", Fraction(1, 3)),
        ("\xb15", None),
        ("\\pm 5", None),
        ("\\sqrt{5}", None),
        ("5\\sqrt{2}", None),
        ("5\\pi", None),
        ("5\u03c0", None),
        ("5x", None),
        ("5i", None),
        ("12, because 3*4=12", 12),
        ("12 since 3*4=12", 12),
        ("12 (3*4)", 12),
        ("12 (twelve)", 12),
        ("18 (9*2)", 18),
        ("5(3)", None),
        ("5 (6)", None),
        ("5 (or 6)", None),
        ("5 or 6", None),
        ("5 or six", None),
        ("5 and 6", None),
        ("5, 6", None),
        ("3:30", None),
        ("2:1", None),
        ("2019-05-03", None),
        ("5-year-old", 5),
        ("3 hours. Then 5 more", 3),
        ("Easy. It is 5", 5),
        ("No. 5", 5),
        ("\u201c5\u201d", 5),
        ("`5`", 5),
        ("**5** apples", 5),
        ("*5*", 5),
        ("__5__", 5),
        ("_5_", 5),
        ("\\(5\\)", 5),
        ("\\(18\\) dollars", 18),
        ("$18$ dollars", 18),
        ("\\text{5}", 5),
        ("5\\text{ apples}", 5),
        ("\\mathbf{5}", 5),
        ("\\boxed{5}", 5),
        ("{5}", 5),
        ("2{3}", None),
        ("(5)", 5),
        ("[5]", 5),
        ("1112112_3", None),
        ("5th", 5),
        ("60 km/h", 60),
        ("5/hour", 5),
        ("5/x", None),
        ("1/2/3", None),
        ("1/0", None),
        ("1/2 cup", Fraction(1, 2)),
        ("1/2 of the pie", Fraction(1, 2)),
        ("\u2154", Fraction(2, 3)),
        ("1\u20442", Fraction(1, 2)),
        ("\\frac{1{,}000}{2}", 500),
        ("there are 5 apples", 5),
        ("the largest of the 3 is 34", 34),
        ("5 - it is yellow", 5),
        ("5 \u2013 that is it", 5),
        ("100 - 5", None),
        ("5 apples - as asked", 5),
        ("+5", 5),
        ("5+", None),
        ("--5", None),
        ("5 < 6", None),
        ("5 times", 5),
        ("2 halves", None),
        ("3 tenths", None),
        ("5 below zero", None),
        ("20$", 20),
        ("1.2.3", None),
        ("1.000.000", None),
        ("5..", 5),
        ("5.", 5),
        (".5", Fraction(1, 2)),
        ("0x10", None),
        ("1_000", None),
        ("5\u200b", 5),
        ("5%.", 5),
        ("$1,234.50.", Fraction(2469, 2)),
        ("\xbd million", 500000),
        ("5 mod 3", None),
        ("100 thousand-dollar bills", None),
        ("five 3s", None),
        ("5 hundredths", None),
        ("zero", None),
        ("5 mph", 5),
        ("5 lbs.", 5),
        ("5 sq. ft.", 5),
        ("5'", 5),
        ('5"', 5),
        ("5 ft 3 in", None),
        ("1/2 dozen", 6),
        ("no 4", None),
        ("18 dollars for 2 boxes", None),
        ("18 dollars, for 2 boxes", 18),
        ("1e400", None),
        ("$-90", -90),
        ("-$90", -90),
        ("$ -90", -90),
        ("- $90", -90),
        ("5\\ \\text{apples}", 5),
        ("5~\\text{cm}", 5),
        ("-1,000", -1000),
        ("12,345,6", None),
    ],
)
def test_forms_and_what_is_left_over(text, number):
    assert parse_number(text) == number


WRITTEN = (
    *("{}", "{}.", "**{}**", "`{}`", "$ {}$", r"\({}\)", r"\text{{{}}}"),
    *("{} apples", "it is {}"),
)
VALUES = st.fractions(-(10**6), 10**6, max_denominator=999)


@FIXED
@given(VALUES, st.sampled_from(WRITTEN), st.sampled_from(["frac", "slash", "mixed"]))
def test_every_fraction_is_read_exactly_in_every_form(value, written, form):
    whole, part = divmod(abs(value), 1)
    if form == "frac":
        text = rf"\frac{{{abs(value).numerator}}}{{{value.denominator}}}"
    elif form == "slash":
        text = str(abs(value))
    else:
        assume(whole and part)
        text = rf"{whole}\frac{{{part.numerator}}}{{{part.denominator}}}"
    text = ("-" if value < 0 else "") + text
    assert parse_number(written.format(text)) == value


@FIXED
@given(st.integers(1, 999), st.sampled_from([w for w in SCALES if not w.endswith("s")]))
def test_scale_words_multiply(number, word):
    assert parse_number(f"{number} {word}") == number * SCALES[word]
    assert parse_number(f"{number}.5 {word}s") == Fraction(2 * number + 1, 2) * SCALES[word]
    assert parse_number(f"minus {number} {word} dollars") == -number * SCALES[word]


@FIXED
@given(VALUES, st.sampled_from(["not {}", "{}!", "{} squared", "twice {}", "{} zillion", "{}^2"]))
def test_what_may_change_the_value_is_never_dropped(value, written):
    assert parse_number(written.format(value)) is None


@FIXED
@given(st.text(max_size=60))
def test_any_text_is_a_number_or_none(text):
    number = parse_number(text)
    assert number is None or parse_number(str(number)) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("five", 5),
        ("eighteen dollars", 18),
        ("twenty-one", 21),
        ("a hundred and five", 105),
        ("two thousand three hundred and five miles", 2305),
        ("one million two hundred thousand", 1_200_000),
        ("fifteen hundred", 1500),
        ("two and a half million", 2_500_000),
        ("half a dozen", 6),
        ("one half", Fraction(1, 2)),
        ("three quarters of an hour", Fraction(3, 4)),
        ("six and two thirds", Fraction(20, 3)),
        ("negative five", -5),
        ("about $five", 5),
        ("twelve (12)", 12),
        ("that there are six left", 6),
        ("a total of twelve apples", 12),
        ("she has twelve", 12),
        ("one hundred (100) dollars", 100),
        ("two and a half (2.5) hours", Fraction(5, 2)),
        ("1000 (one thousand)", 1000),
        ("one thousand, two hundred and fifty", 1250),
        ("three point one four", Fraction(314, 100)),
        ("four quarters", 4),
        ("five seconds", 5),
        ("five months", 5),
        ("five. It took two steps", 5),
        ("one", 1),
        ("exactly one apple", 1),
        ("zero", 0),
        # digits count first where words do not begin the sentence
        ("found in two steps: 7", 7),
        ("found in two steps. It is 7", 7),
        ("one of these. It is 7", 7),
        # not one number
        ("five or six", None),
        ("five to six", None),
        ("twenty eleven", None),
        ("the twenty fifth", None),
        ("a five-year plan", None),
        ("one of them", None),
        ("that one", None),
        ("not five", None),
        ("twice five", None),
        ("five squared", None),
        ("no apples", None),
        *(("five or one", None), ("five to one", None), ("five times one", None)),
        *(("one must add first", None), ("one can see it", None)),
        *(("one twelfth", None), ("five sixteenths", None), ("twenty first", None)),
        *(("point five", None), ("two pi", None), ("two to the fifth power", None)),
        # a number in words elsewhere in a sentence is part of what is said
        ("the sum of the two numbers", None),
        ("unknown because the two values are missing", None),
        ("a number divisible by seven", None),
        ("all but five", None),
        ("none of the five", None),
    ],
)
def test_numbers_in_words(text, number):
    assert parse_number(text, words=True) == number


@given(st.integers(1, 10**9 - 1))
@FIXED
def test_every_number_in_words_is_itself(number):
    assert parse_number(_in_words(number), words=True) == number
    assert parse_number(_in_words(number)) is None


_ONES = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def _in_words(number: int) -> str:
    for scale, word in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= scale:
            rest = number % scale
            joint = " and " if rest and scale == 100 else " "
            above = f"{_in_words(number // scale)} {word}"
            return above + (joint + _in_words(rest) if rest else "")
    if number < 20:
        return _ONES[number]
    unit = number % 10
    return _TENS[number // 10 - 2] + (f"-{_ONES[unit]}" if unit else "")
