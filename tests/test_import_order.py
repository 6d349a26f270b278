"""Who may import whom: read from the source, nothing is imported.

Each rule is a function from a file (its dotted name and its syntax tree) to lines that break it. It
is tried on planted violations, and on how many files it saw, so that it cannot pass by looking at
nothing.
"""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Who may import whom, lowest first: a package imports itself and what stands in the lines above it.
ORDER = """
records on_demand
prompts
settings
method answers store
data runtime
lm tasks ablations
teachers training evaluation export
engines report
pipeline
stages
programs
__main__
"""
RANK = {name: rank for rank, line in enumerate(ORDER.split("\n")) for name in line.split()}

# Libraries that only some packages know.
HOMES = {
    "lightning": ["data.datamodule", "training", "pipeline", "stages", "runtime.ranks"],
    "transformers": ["lm", "engines", "training", "teachers.local"],
    "peft": ["lm", "engines", "training", "teachers.local"],
    "vllm": ["engines"],
    "hydra": ["settings", "runtime"],
    "omegaconf": ["settings", "runtime"],
}
PURE = ["method", "ablations", "records", "on_demand", "prompts", "data.row", "data.prefix_tree"]
PURE += ["data.pairs"]
PURE += ["data.policy_rows", "data.baseline_rows", "data.grm_rows", "data.step_plan"]
PURE += ["evaluation.train_overlap", "evaluation.run_warnings", "lm.memory_estimate"]
# What a pure module has no use for: disk, logging, processes, settings, models.
IMPURE = {
    *("os", "io", "pathlib", "shutil", "tempfile", "logging", "subprocess", "socket", "threading"),
    *("multiprocessing", "time", "filelock", "rich", "hydra", "omegaconf", "yaml", "pickle"),
    *("datasets", "pyarrow", "lightning", "transformers", "peft"),
}
QUICK = ["settings", "runtime", "store.artifacts", "store.inventory", "store.prune", "store.locks"]
QUICK += ["store.atomic", "store.fingerprint"]
PADS = ("pad_sequence", "torch.nn.functional.pad", "F.pad", "functional.pad", "tokenizer.pad")
BANNED_NAMES = {"utils", "helpers", "common", "util", "helper", "misc"}
PICKLES = ("pickle.load", "pickle.loads", "joblib.load", "numpy.load", "np.load", "hub.load")
PICKLES += ("pickle.Unpickler", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load")
CODE = ("eval", "exec", "compile", "__import__")
SHELLS = ("os.system", "os.popen", "parse_expr", "sympify", "getoutput")


def within(name, places):
    """Whether a dotted name (without `rlmec.`) is one of the places or lies in one of them."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def imports(name, tree):
    """Every dotted name that a file imports, also inside functions, with its line."""
    here = ["rlmec", *name.split(".")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{module}.{alias.name}", node.lineno


def own(imported):
    return imported.removeprefix("rlmec.") if imported.startswith("rlmec.") else None


def top(imported):
    return imported.split(".")[0]


def import_rule(why, forbidden):
    """A rule from a predicate on (importing name, imported dotted name)."""

    def rule(name, tree):
        return [
            f"line {n}: imports {i}: {why}" for i, n in imports(name, tree) if forbidden(name, i)
        ]

    return rule


def _against_the_order(name, imported):
    mine = own(imported)
    if mine is None or name == "__init__" or top(name) == top(mine):
        return False
    return RANK[top(mine)] >= RANK[top(name)]


def _library_elsewhere(name, imported):
    library = top(imported).replace("pytorch_lightning", "lightning")
    return library in HOMES and not within(name, HOMES[library])


def _impure(name, imported):
    return within(name, PURE) and top(imported) in IMPURE


def _training_sees_credit(name, imported):
    """Credit is decided before training and travels in the data."""
    mine = own(imported) or ""
    decided = ["method.rewards", "method.acceptance", "method.credit", "tasks", "teachers"]
    return within(name, ["training"]) and within(mine, [*decided, "settings", "engines"])


def _engine_trains(name, imported):
    allowed = ["engines", "training.predict_parts", "lm", "data", "runtime", "records"]
    allowed += ["settings.ranges"]
    mine = own(imported)
    return within(name, ["engines"]) and mine is not None and not within(mine, allowed)


def _evaluation_sees_models(name, imported):
    return within(name, ["evaluation"]) and within(own(imported) or "", ["lm", "data"])


def heavy_at_import(name, tree):
    """What the command line needs stays quick to import: heavy libraries only inside functions."""
    if not within(name, QUICK):
        return []
    heavy = {"torch", "lightning", "transformers", "datasets", "peft", "numpy", "pyarrow"}
    quick = ast.Module(
        [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)], []
    )
    return [f"line {n}: imports {i} at import" for i, n in imports(name, quick) if top(i) in heavy]


def pads(name, tree):
    if name == "data.collate":
        return []
    called = [(ast.unparse(n.func), n.lineno) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    own_way = [f"line {n}: {c} pads, only data.collate does" for c, n in called if c.endswith(PADS)]
    named = [
        (i, n) for i, n in imports(name, tree) if i.endswith(("pad_sequence", "functional.pad"))
    ]
    return own_way + [f"line {n}: imports {i}, only data.collate pads" for i, n in named]


def long_functions(name, tree):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    found = [n for n in ast.walk(tree) if isinstance(n, kinds)]
    length = {n: (n.end_lineno or n.lineno) - n.lineno + 1 for n in found}
    return [f"line {n.lineno}: {n.name} has {length[n]} lines" for n in found if length[n] > 80]


def catch_all(name, tree):
    bare = [n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.type is None]
    return [f"line {n.lineno}: a bare except" for n in bare]


def loads(name, tree):
    """Weights come from safetensors or with `weights_only`, code never from a model's folder; only
    ranks of one job send each other pickled values."""
    wanted = {
        "torch.load": {"weights_only": True},
        "AutoModelForCausalLM.from_pretrained": {"trust_remote_code": False}
        | {"use_safetensors": True},
        "AutoConfig.from_pretrained": {"trust_remote_code": False},
        "AutoTokenizer.from_pretrained": {"trust_remote_code": False},
        "vllm.LLM": {"trust_remote_code": False},
        "PeftModel.from_pretrained": {},  # adapter_at has looked for its safetensors
    }
    broken = []
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        called = ast.unparse(node.func)
        rule = next((rule for end, rule in wanted.items() if called.endswith(end)), None)
        given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        if rule is None and called.endswith((".from_pretrained", *PICKLES)):
            rule = (
                {} if name == "runtime.ranks" and called.startswith("pickle.") else {"nobody": True}
            )
        if rule and not rule.items() <= given.items():
            broken.append(f"line {node.lineno}: {called} without {rule}")
    return broken


def evaluates(name, tree):
    """No text becomes code: nothing is evaluated, and no shell is started."""
    broken = []
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        called = ast.unparse(node.func)
        shell = any(k.arg == "shell" for k in node.keywords)
        if called in CODE or called.endswith(SHELLS) or shell:
            broken.append(f"line {node.lineno}: {called}")
    return broken


RULES = {
    "order": import_rule("against the order of packages", _against_the_order),
    "libraries": import_rule("this library has its places", _library_elsewhere),
    "pure": import_rule("this module is pure", _impure),
    "training": import_rule("credit is decided before training", _training_sees_credit),
    "engines": import_rule("an engine only samples", _engine_trains),
    "evaluation": import_rule("evaluation judges tables", _evaluation_sees_models),
    "quick to import": heavy_at_import,
    "loading": loads,
    "evaluating": evaluates,
    "padding": pads,
    "functions": long_functions,
    "bare except": catch_all,
}


def sources():
    """Dotted name (without `rlmec.`) and path of every file of the package."""
    for path in sorted((ROOT / "rlmec").rglob("*.py")):
        parts = path.relative_to(ROOT / "rlmec").with_suffix("").parts
        yield ".".join(p for p in parts if p != "__init__") or "__init__", path


FILES = dict(sources())


@functools.cache
def parsed(path):
    """The syntax of a file, for all rules."""
    return ast.parse(path.read_text(encoding="utf-8"))


def test_the_files_are_seen():
    assert len(FILES) > 100
    assert {top(name) for name in FILES} - {"__init__"} == set(RANK)
    homes = [place for places in HOMES.values() for place in places]
    for place in (*PURE, *QUICK, *homes):
        assert any(within(name, [place]) for name in FILES), place
    seen = [i for name, path in FILES.items() for i, _ in imports(name, parsed(path))]
    assert len(seen) > 500


@pytest.mark.parametrize("rule", RULES)
def test_no_file_breaks_the_rule(rule):
    broken = {
        str(path.relative_to(ROOT)): lines
        for name, path in FILES.items()
        if (lines := RULES[rule](name, parsed(path)))
    }
    assert broken == {}


def test_files_are_named_for_their_subject():
    paths = [*FILES.values(), *ROOT.glob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert len(paths) > len(FILES)
    assert not [p for p in paths if p.stem in BANNED_NAMES]


PLANTED = [
    ("order", "data.datamodule", "from rlmec.stages import train"),
    ("order", "runtime.ranks", "def f():\n    import rlmec.pipeline.fit"),
    ("order", "training.policy_module", "from rlmec import stages"),
    ("order", "training.policy_module", "from .. import engines"),
    ("order", "method.rewards", "from rlmec.data.row import Row"),
    ("order", "tasks.gsm8k", "from rlmec.lm.loading import load_network"),
    ("order", "training.policy_module", "from ..teachers import base"),
    ("order", "prompts", "from rlmec.store.atomic import sync"),
    ("libraries", "evaluation.accuracy", "import lightning as L"),
    ("libraries", "lm.loading", "from lightning.pytorch import Trainer"),
    ("libraries", "data.datamodule", "from transformers import AutoTokenizer"),
    ("libraries", "teachers.oracle", "import transformers"),
    ("libraries", "stages.sample", "from vllm import LLM"),
    ("libraries", "data.datamodule", "from omegaconf import DictConfig"),
    ("libraries", "stages", "import hydra"),
    ("pure", "records", "import logging"),
    ("pure", "method.rewards", "from pathlib import Path"),
    ("pure", "method.credit", "def f():\n    from omegaconf import OmegaConf"),
    ("training", "training.policy_module", "from rlmec.method.rewards import edit_labels"),
    ("training", "training.reward_model_module", "from rlmec import tasks"),
    ("training", "training.module", "from rlmec.settings.schema import FitSettings"),
    ("engines", "engines.vllm", "from rlmec.training.policy_module import PolicyModule"),
    ("evaluation", "evaluation.stored_outputs", "from rlmec.lm.loading import load_network"),
    ("quick to import", "settings.check", "import torch"),
    ("quick to import", "store.artifacts", "if True:\n    from numpy import array"),
    ("padding", "data.datamodule", "import torch\ntorch.nn.functional.pad(x, (0, 1))"),
    ("padding", "lm.logprobs", "from torch.nn.utils.rnn import pad_sequence"),
    ("padding", "training.policy_module", "batch = self.tokenizer.pad(rows)"),
    ("functions", "data.row", "def f():\n" + "    x = 1\n" * 81),
    ("bare except", "data.row", "try:\n    f()\nexcept:\n    pass"),
    ("loading", "pipeline.fit", "torch.load(path)"),
    ("loading", "pipeline.fit", "torch.load(path, weights_only=False)"),
    ("loading", "lm.loading", "AutoModelForCausalLM.from_pretrained(p, use_safetensors=True)"),
    ("loading", "lm.model_sizes", "AutoConfig.from_pretrained(p, trust_remote_code=True)"),
    ("loading", "engines.vllm", "vllm.LLM(model)"),
    ("loading", "lm.loading", "LlamaForCausalLM.from_pretrained(path)"),
    ("loading", "store.tables", "import pickle\npickle.loads(data)"),
    ("evaluating", "answers.numbers", "eval(text)"),
    ("evaluating", "answers.math_verifier", "subprocess.run(text, shell=True)"),
    ("evaluating", "teachers.local", "os.system(reply)"),
]


@pytest.mark.parametrize(("rule", "name", "text"), PLANTED)
def test_a_planted_violation_is_found(rule, name, text):
    assert RULES[rule](name, ast.parse(text))


ALLOWED = [
    ("order", "stages.grm", "from rlmec.pipeline.fit import fit"),
    ("order", "stages.run", "from rlmec.stages import flow"),
    ("pure", "method.rewards", "import numpy as np\nfrom rlmec.records import Pair"),
    ("libraries", "training.policy_module", "import lightning as L"),
    ("libraries", "stages", "import lightning as L"),
    ("libraries", "teachers.local", "import transformers"),
    ("libraries", "settings.check", "from omegaconf import OmegaConf"),
    ("training", "training.policy_module", "from rlmec.lm import generation"),
    ("training", "training.policy_module", "from rlmec.method.objectives import TokenBatch"),
    ("quick to import", "runtime.ranks", "def f():\n    import torch"),
    ("padding", "data.collate", "torch.nn.functional.pad(x, (0, 1))"),
    ("functions", "data.row", "def f():\n" + "    x = 1\n" * 79),
    ("loading", "pipeline.fit", "torch.load(path, map_location='cpu', weights_only=True)"),
    ("evaluating", "training.policy_module", "network.eval()\nre.compile('x')"),
]


@pytest.mark.parametrize(("rule", "name", "text"), ALLOWED)
def test_what_is_allowed_passes(rule, name, text):
    assert RULES[rule](name, ast.parse(text)) == []


def test_every_rule_was_tried():
    assert {rule for rule, _, _ in PLANTED} == set(RULES)
