"""Who may import whom, and how large things may grow: read from the source, nothing is imported.

Each rule is a function from a file (its dotted name and its syntax tree) to lines that break it. It
is tried on planted violations, and on how many files it saw, so that it cannot pass by looking at
nothing.
"""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE = ["records", "alignment", "rewards", "objectives", "prompts", "credit", "row", "packing"]
PURE += ["overlap", "planning", "diagnosis"]
LIGHTNING = ["datamodule", "modules", "callbacks", "checkpointing", "stages", "launch"]
TRANSFORMERS = ["language", "engines", "modules", "teachers.local"]
HYDRA = ["configuration", "launch", "entry"]  # entry: what train.py and evaluate.py share
# What a pure room has no use for: disk, logging, processes, settings, models.
IMPURE = {
    *("os", "io", "pathlib", "shutil", "tempfile", "logging", "subprocess", "socket", "threading"),
    *("multiprocessing", "time", "filelock", "rich", "hydra", "omegaconf", "yaml", "pickle"),
    *("datasets", "pyarrow", "lightning", "transformers", "peft"),
}
PURE_IMPORTS = {"records", "alignment", "row"}
QUICK = ("configuration", "binding", "signatures", "settings", "launch", "artifacts", "entry")
QUICK += ("keeping", "inventory", "pruning", "uses")
PADS = ("pad_sequence", "torch.nn.functional.pad", "F.pad", "functional.pad", "tokenizer.pad")
BANNED_NAMES = {"utils", "helpers", "common", "util", "helper", "misc"}
PICKLES = ("pickle.load", "pickle.loads", "joblib.load", "numpy.load", "np.load", "hub.load")
PICKLES += ("pickle.Unpickler", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load")
CODE = ("eval", "exec", "compile", "__import__")
SHELLS = ("os.system", "os.popen", "parse_expr", "sympify", "getoutput")
EXTENSIONS = ("stages_", "stages.")  # stages may be cut into several files


def within(name, rooms):
    """Whether a dotted name (without `rlmec.`) lies in one of the rooms."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def is_stages(name):
    return name == "stages" or name.startswith(EXTENSIONS)


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


def _reaches_stages(name, imported):
    return is_stages(own(imported) or "") and not is_stages(name)


def _leaves_a_pure_room(name, imported):
    if not within(name, PURE):
        return False
    mine = own(imported)
    return top(imported) in IMPURE if mine is None else not within(mine, {*PURE_IMPORTS, name})


def _lightning_elsewhere(name, imported):
    allowed = within(name, LIGHTNING) or is_stages(name)
    return top(imported) in ("lightning", "pytorch_lightning") and not allowed


def _transformers_elsewhere(name, imported):
    return top(imported) in ("transformers", "peft") and not within(name, TRANSFORMERS)


def _vllm_elsewhere(name, imported):
    return top(imported) == "vllm" and not within(name, ["engines"])


def _engine_looks_up(name, imported):
    upper = ["stages", "modules", "tasks", "teachers", "datamodule", "configuration", "settings"]
    return within(name, ["engines"]) and within(own(imported) or "", upper)


def _hydra_elsewhere(name, imported):
    return top(imported) in ("hydra", "omegaconf") and not within(name, HYDRA)


def _module_looks_up(name, imported):
    upper = ["tasks", "teachers", "rewriting", "rewards", "artifacts", "configuration", "engines"]
    return within(name, ["modules"]) and within(own(imported) or "", upper)


def _evaluation_sees_modules(name, imported):
    judges = ["evaluation", "judging", "overlap", "examples", "stored"]
    judges += [f"report.{n}" for n in ("judgements", "harness", "table", "figures")]
    return within(name, judges) and within(own(imported) or "", ["modules", "language"])


def heavy_at_import(name, tree):
    """configuration and what it needs stay quick to import: heavy libraries only inside
    functions."""
    if name not in QUICK:
        return []
    heavy = {"torch", "lightning", "transformers", "datasets", "peft", "numpy", "pyarrow"}
    quick = ast.Module(
        [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)], []
    )
    return [f"line {n}: imports {i} at import" for i, n in imports(name, quick) if top(i) in heavy]


def pads(name, tree):
    if name == "batching":
        return []
    called = [(ast.unparse(n.func), n.lineno) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    own_way = [f"line {n}: {c} pads, only batching does" for c, n in called if c.endswith(PADS)]
    named = [
        (i, n) for i, n in imports(name, tree) if i.endswith(("pad_sequence", "functional.pad"))
    ]
    return own_way + [f"line {n}: imports {i}, only batching pads" for i, n in named]


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
            rule = {} if name == "launch" and called.startswith("pickle.") else {"nobody": True}
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
    "loading": loads,
    "evaluating": evaluates,
    "nothing imports the doors": import_rule("nothing imports stages", _reaches_stages),
    "pure rooms": import_rule("this room is pure", _leaves_a_pure_room),
    "lightning": import_rule("lightning has its rooms", _lightning_elsewhere),
    "transformers": import_rule("transformers has its rooms", _transformers_elsewhere),
    "vllm": import_rule("vllm is an engine's", _vllm_elsewhere),
    "engines": import_rule("an engine only samples", _engine_looks_up),
    "hydra": import_rule("only configuration and launch know Hydra", _hydra_elsewhere),
    "modules": import_rule("credit is decided before training", _module_looks_up),
    "evaluation": import_rule("evaluation judges tables", _evaluation_sees_modules),
    "quick to import": heavy_at_import,
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
    assert len(FILES) > 25
    assert {"records", "settings", "artifacts", "configuration", "batching"} <= set(FILES)
    assert {r for r in PURE if r not in FILES} == set()
    seen = [
        i for name, path in FILES.items() for i, _ in imports(name, ast.parse(path.read_text()))
    ]
    assert len(seen) > 200


@pytest.mark.parametrize("rule", RULES)
def test_no_file_breaks_the_rule(rule):
    broken = {
        str(path.relative_to(ROOT)): lines
        for name, path in FILES.items()
        if (lines := RULES[rule](name, parsed(path)))
    }
    assert broken == {}


def test_files_are_short_and_named_for_their_subject():
    paths = [*FILES.values(), *(p for p in ROOT.glob("*.py")), *(ROOT / "tests").rglob("*.py")]
    assert len(paths) > len(FILES)
    assert not [p for p in paths if p.stem in BANNED_NAMES]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in FILES.values()}
    assert {name: n for name, n in lengths.items() if n > 350} == {}


PLANTED = [
    ("nothing imports the doors", "datamodule", "from rlmec.stages import train"),
    ("nothing imports the doors", "launch", "def f():\n    import rlmec.stages_fit"),
    ("nothing imports the doors", "modules.policy", "from rlmec import stages"),
    ("nothing imports the doors", "modules.policy", "from .. import stages"),
    ("pure rooms", "records", "import logging"),
    ("pure rooms", "rewards", "from pathlib import Path"),
    ("pure rooms", "prompts", "from rlmec.artifacts import sync"),
    ("pure rooms", "objectives", "from rlmec import settings"),
    ("pure rooms", "credit", "def f():\n    from omegaconf import OmegaConf"),
    ("lightning", "evaluation", "import lightning as L"),
    ("lightning", "language.loading", "from lightning.pytorch import Trainer"),
    ("transformers", "datamodule", "from transformers import AutoTokenizer"),
    ("transformers", "teachers.oracle", "import transformers"),
    ("vllm", "stages.sampling", "from vllm import LLM"),
    ("engines", "engines.vllm", "from rlmec.modules.policy import PolicyModule"),
    ("hydra", "datamodule", "from omegaconf import DictConfig"),
    ("hydra", "stages", "import hydra"),
    ("modules", "modules.policy", "from rlmec.rewards import edit_labels"),
    ("modules", "modules.reward_model", "from rlmec import tasks"),
    ("modules", "modules.reward_model", "from ..teachers import base"),
    ("evaluation", "evaluation", "from rlmec.modules.policy import PolicyModule"),
    ("evaluation", "stored", "from rlmec.language.loading import load_network"),
    ("quick to import", "configuration", "import torch"),
    ("quick to import", "artifacts", "if True:\n    from numpy import array"),
    ("padding", "datamodule", "import torch\ntorch.nn.functional.pad(x, (0, 1))"),
    ("padding", "language.scoring", "from torch.nn.utils.rnn import pad_sequence"),
    ("padding", "modules.policy", "batch = self.tokenizer.pad(rows)"),
    ("functions", "rows", "def f():\n" + "    x = 1\n" * 81),
    ("bare except", "rows", "try:\n    f()\nexcept:\n    pass"),
    ("loading", "stages.fitting", "torch.load(path)"),
    ("loading", "stages.fitting", "torch.load(path, weights_only=False)"),
    (
        "loading",
        "language.loading",
        "AutoModelForCausalLM.from_pretrained(p, use_safetensors=True)",
    ),
    ("loading", "language.sizes", "AutoConfig.from_pretrained(p, trust_remote_code=True)"),
    ("loading", "engines.vllm", "vllm.LLM(model)"),
    ("loading", "language.loading", "LlamaForCausalLM.from_pretrained(path)"),
    ("loading", "tables", "import pickle\npickle.loads(data)"),
    ("evaluating", "tasks.answers", "eval(text)"),
    ("evaluating", "tasks.verifier", "subprocess.run(text, shell=True)"),
    ("evaluating", "teachers.local", "os.system(reply)"),
]


@pytest.mark.parametrize(("rule", "name", "text"), PLANTED)
def test_a_planted_violation_is_found(rule, name, text):
    assert RULES[rule](name, ast.parse(text))


ALLOWED = [
    ("nothing imports the doors", "stages_fit", "from rlmec.stages import door"),
    ("pure rooms", "rewards", "import numpy as np\nfrom rlmec.records import Pair"),
    ("lightning", "modules.policy", "import lightning as L"),
    ("lightning", "stages", "import lightning as L"),
    ("transformers", "teachers.local", "import transformers"),
    ("hydra", "configuration", "from omegaconf import OmegaConf"),
    ("modules", "modules.policy", "from rlmec.language import generation"),
    ("quick to import", "launch", "def f():\n    import torch"),
    ("padding", "batching", "torch.nn.functional.pad(x, (0, 1))"),
    ("functions", "rows", "def f():\n" + "    x = 1\n" * 79),
    ("loading", "stages.fitting", "torch.load(path, map_location='cpu', weights_only=True)"),
    ("evaluating", "modules.policy", "network.eval()\nre.compile('x')"),
]


@pytest.mark.parametrize(("rule", "name", "text"), ALLOWED)
def test_what_is_allowed_passes(rule, name, text):
    assert RULES[rule](name, ast.parse(text)) == []


def test_every_rule_was_tried():
    assert {rule for rule, _, _ in PLANTED} == set(RULES)
