"""Speed next to what a user would pick instead: python -m benchmarks peers [key=value ...]

In: a network (random weights of a preset's shape, or a model folder) and pairs or prompts with the
lengths of GSM8K. Out: one table per kind of work (`training`, `sampling`, `rewriting`), with one
row per peer: what it computes, its useful tokens per second, and its time relative to ours.

Peers of one kind of work are the modules of the package of that name. Each module has a tuple
`PEERS`, so that a new peer is a new file. A peer needs packages that this project does not require;
without them its row says "not installed".
"""
