"""Rubbish for every reader: `python -m tests.fuzzing --inputs 100000 --seed 1` (`make fuzz`).

Real inputs are mutated and given to what reads them. Each is accepted or refused with a clear
error; anything else, an input that takes too long, and one that changes what it is read from, is a
failure, printed with the command that repeats it.
"""
