"""Thirty-six answers that try to hang or exhaust whoever compares them, with their gold answers."""


def _matrix(size: int) -> str:
    rows = (" & ".join(f"a_{{{i}}}^{{{j}}}" for j in range(size)) for i in range(size))
    return r"\begin{pmatrix} " + r" \\ ".join(rows) + r" \end{pmatrix}"


def _nested(left: str, inner: str, right: str, depth: int) -> str:
    return left * depth + inner + right * depth


PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)
ROOTS = [rf"\sqrt{{{p}}}" for p in PRIMES]

BOMBS = {
    "tower of nines": (r"9^{9^{9^{9}}}", "1"),
    "tower against itself and one": (r"8^{8^{8^{8}}}", r"8^{8^{8^{8}}}+1"),
    "tower of two nines": (r"9^{9^{9}}", "1"),
    "tower of tens": (r"10^{10^{10}}", r"10^{10^{10}}+1"),
    "tower of twos": (r"2^{2^{2^{2^{2^{2}}}}}", "2"),
    "power": ("3^{2000000000}", "1"),
    "power against itself and one": ("5^{1000000000}", "5^{1000000000}+1"),
    "negative power": ("2^{-3000000000}", "0"),
    "difference of powers": ("11^{400000000}-11^{400000000}+2", "1"),
    "power of a large base": ("1000003^{200000000}", "2"),
    "fraction of powers": (r"\frac{5^{90000000}}{11^{90000000}}", "1"),
    "root of a power": (r"\sqrt{7^{300000000}}", "1"),
    "logarithm of a power": (r"\log_{7} 7^{200000000}", "200000001"),
    "remainder of a power": (r"3^{300000000} \mod 11", "4"),
    "floor of a power": (r"\lfloor 3^{200000000} / 7 \rfloor", "1"),
    "greatest common divisor": (r"\gcd(2^{20000000}-1, 6^{20000000})", "1"),
    "factorial": ("300000000!", "1"),
    "factorial of a factorial": ("((8!)!)!", "1"),
    "fraction of factorials": (r"\frac{90000000!}{89999999!}", "90000001"),
    "binomial": (r"\binom{2000000000}{999999999}", "1"),
    "long sum": (r"\sum_{n=1}^{9000000000} \frac{1}{n}", "23"),
    "long product": (r"\prod_{n=1}^{1000000000} (1 + \frac{1}{n^2})", "3"),
    "integral": (r"\int_0^2 \cos(x^{x^{x}}) e^{\sin(\ln x)} dx", "1"),
    "matrix of symbols": (_matrix(12), _matrix(12).replace("a_{0}^{0}", "a_{0}^{0}+0")),
    "power of a matrix": (r"\begin{pmatrix} 2 & 3 \\ 5 & 7 \end{pmatrix}^{300000000}", "1"),
    "polynomial": ("(a+b+c+d)^{300}", "(d+c+b+a)^{300}+1"),
    "product of polynomials": ("(x+1)(x+2)(x+3)" * 60, "(x+1)" * 180),
    "sum of roots": ("+".join(ROOTS), "+".join(reversed(ROOTS)) + "+10^{-3}"),
    "product of cosines": (r"\prod_{k=1}^{80} \cos(kx)", r"\sin(x)"),
    "nested roots": (_nested(r"\sqrt{3+", "3", "}", 150), "3"),
    "nested fractions": (_nested(r"\frac{1}{1+", "x", "}", 120), "1"),
    "nested brackets": (_nested("(", "1", ")", 900), "2"),
    "nested powers": (_nested("x^{", "x", "}", 300), "x"),
    "many digits": ("7" * 1900, "1"),
    "many commas": ("1," * 900 + "1", "2"),
    "a long text": ("lorem = + - ( ipsum " * 50_000, "1"),
}
