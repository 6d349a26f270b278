"""What the programs share: check the command line and the configuration, start the ranks, run.

In: a command line, or overrides from Python. Out: the optimized metric, `summary.json` in the run
folder, and the table of a sweep. A program shows an error and ends; `run_here` raises it.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rlmec.runtime import signals
from rlmec.runtime.display import log, logged, say, say_error, say_markdown
from rlmec.runtime.ranks import (
    RankError,
    Ranks,
    die_with_parent,
    forget_stray_variables,
    launched_outside,
    start_ranks,
    stop_with_parent,
    world_size,
)
from rlmec.runtime.store_commands import PLAN, PRUNE, STATUS, Names, run_store_command
from rlmec.runtime.sweeps import (
    ERROR,
    JobRecord,
    SweepPlace,
    read_summary,
    run_as_child,
    sweep_overview,
    write_sweep_table,
)
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.check import check
from rlmec.settings.command_line import (
    check_command_line,
    checked_arguments,
    refuse_command_line,
    with_split_files,
)
from rlmec.settings.help import help_text
from rlmec.settings.schema import RunSettings
from rlmec.settings.signatures import SignatureError
from rlmec.store.artifacts import ArtifactError
from rlmec.store.atomic import atomic_write_text

Program = Callable[[RunSettings, Ranks, Path, list[str]], float | None]
"""What a job does: settings, ranks, run folder and overrides in, the optimized metric out."""
EXPECTED = (ConfigurationError, SignatureError, ArtifactError, RankError, ValueError, OSError)
"""Errors whose message is enough. Of all others the traceback is shown."""


LIBRARIES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}
"""Variables that torch reads once in a process; a value of the user's stands. Rows have many
lengths here, and both libraries would compile for each of them.

oneDNN keeps 1024 matrix products by default, which grow to hundreds of MB on a CPU; compiling them
again costs no time that can be measured. cuDNN's attention, which torch prefers on an H100 and
later, plans anew for every shape, at each token that is generated; torch's own attention does not.
"""


class JobFailed(RuntimeError):
    """A job of a sweep that ended with an error, which was already shown."""


Job = Callable[[DictConfig], float | None]
"""One job: the composed configuration in, the optimized metric out."""


def config_folder() -> Path:
    """The configuration's files: rlmec/conf in an installed package, conf/ in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def run_command_line(job: Job, config_dir: Path, config_name: str, argv: list[str]) -> None:
    """Run the job, or the sweep, that a command line describes. `argv` has no program's name.

    Ends the program with 2 for a wrong command line, and as `run_program` does for other errors.
    """
    die_with_parent()
    signals.listen()
    given = check_command_line(with_split_files(argv), config_dir, config_name)
    try:
        text = help_text(given, config_dir, config_name)
    except ConfigurationError as error:
        refuse_command_line(error)
    if text is not None:
        print(text)
        return

    sys.argv[1:] = given
    program = hydra.main(version_base="1.3", config_path=str(config_dir), config_name=config_name)
    try:
        program(job)()
    finally:
        # A sweep that was stopped or has a job that failed is shown, too.
        if SweepPlace.folder is not None:
            _show_sweep(SweepPlace.folder)


def run_program(
    cfg: DictConfig, program: Callable[[], Program], names: Callable[[], Names] | None = None
) -> float | None:
    """Run one job.

    `program` imports the job's code; it is called only after the configuration is checked. With
    `names`, the job may also be `stage=status` or `stage=prune`.

    An error is shown as one line, with its traceback in `error.txt` in the run folder, and ends the
    program with 1. In a sweep an error ends only its job, and the sweep ends with 1. A signal that
    asks to stop ends the program, and with it the sweep, with 128 plus its number.
    """
    # In a worker of a launcher, the program's own call has not run.
    signals.listen()
    stop_with_parent()

    config = HydraConfig.get()
    with _log_of(config):
        return _run_program(cfg, config, program, names)


def _run_program(
    cfg: DictConfig,
    config: HydraConf,
    program: Callable[[], Program],
    names: Callable[[], Names] | None,
) -> float | None:
    in_sweep = config.mode is not None and config.mode.name == "MULTIRUN"
    record = JobRecord(Path(config.runtime.output_dir))
    if in_sweep:
        own = [override for override in config.overrides.task if override not in sys.argv]
        say(f"job {config.job.num}: {' '.join(own)}")
    try:
        value = _run_job(cfg, record, program, names)
    except signals.RunStopped as stop:
        _show_stop(stop, record)
        raise
    except Exception as error:
        # A signal ends the ranks one after the other: what fails then is not an error of its own.
        number = signals.requested()
        if number is not None:
            stop = signals.RunStopped(number, f"it ended with {type(error).__name__}: {error}")
            _show_stop(stop, record)
            raise stop from error
        _show_error(error, record)
        if not in_sweep:
            sys.exit(1)
        write_sweep_table(Path(config.sweep.dir))
        raise JobFailed(f"job {config.job.num} failed: {error}") from error

    if in_sweep:
        write_sweep_table(Path(config.sweep.dir))
    return value


def run_here(
    overrides: Sequence[str],
    config_dirs: Sequence[Path],
    config_name: str,
    program: Callable[[], Program],
    names: Callable[[], Names] | None = None,
) -> tuple[Path, float | None, dict[str, Any]]:
    """Run one job for a caller in Python: run folder, optimized metric, composed configuration.

    The first of `config_dirs` holds the configuration, the others further files. Raises
    ConfigurationError for wrong overrides, for options of the command line, and for settings that
    need several processes, unless torchrun or SLURM has started them. Other errors are raised as
    they are, after `summary.json` has recorded them.
    """
    if options := [o for o in overrides if o.startswith("-")]:
        raise ConfigurationError(f"{options[0]}: expected an override, key=value")
    first, *further = config_dirs
    given = with_split_files(overrides)
    if further:
        given += [f"hydra.searchpath={[str(folder.resolve()) for folder in further]}"]
    given = checked_arguments(given, first, config_name)

    errors: list[Exception] = []
    tree: Any = {}

    def job(cfg: DictConfig) -> float | None:
        config = HydraConfig.get()
        record = JobRecord(Path(config.runtime.output_dir))
        try:
            with _log_of(config):
                metric = _run_job(cfg, record, program, names, starts_ranks=False)
            tree.update(OmegaConf.to_container(cfg, resolve=True))  # pyright: ignore
            return metric
        except KeyboardInterrupt:
            record.broken_off("stopped", "KeyboardInterrupt")
            raise
        except Exception as error:
            record.broken_off("failed", f"{type(error).__name__}: {error}")
            errors.append(error)  # Hydra would print an error that is raised here
            return None

    with initialize_config_dir(str(first.resolve()), version_base="1.3"):
        started: Any = GlobalHydra.instance().hydra
        done = started.run(config_name, job, given, with_log_configuration=False)
    if errors:
        raise errors[0]
    return Path(done.hydra_cfg.hydra.runtime.output_dir), done.return_value, tree


def _run_job(
    cfg: DictConfig,
    record: JobRecord,
    program: Callable[[], Program],
    names: Callable[[], Names] | None,
    *,
    starts_ranks: bool = True,
) -> float | None:
    """Check the configuration and run its job; `record` says how it goes."""
    config = HydraConfig.get()
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)
    forget_stray_variables()
    if signals.is_first_rank() and cfg.get("stage") not in (STATUS, PRUNE, PLAN):
        record.begin(_shown_overrides(config))
        log(f"overrides: {' '.join(_shown_overrides(config)) or 'none'}")

    settings = check(cfg, *_config_dirs(config))
    if signals.is_first_rank() and config.runtime.choices.get("trainer") == "auto":
        device = "CPU" if settings.trainer.accelerator == "cpu" else "GPU"
        say(f"trainer=auto takes the {device}")
    if names is not None and settings.stage in (STATUS, PRUNE):
        return run_store_command(settings, names)
    if not (starts_ranks or launched_outside() or world_size(settings.trainer) == 1):
        raise ConfigurationError(
            f"trainer.devices x trainer.num_nodes is {world_size(settings.trainer)}: a call from "
            "Python runs in one process; start the script with torchrun, or use the command line"
        )
    metric = _run(settings, record.run_dir, program)
    record.finished(metric)
    return metric


def _log_of(config: HydraConf) -> AbstractContextManager[None]:
    """The log of a job in its run folder: `train.log`, or `evaluate.log`. All ranks write to it."""
    path = Path(config.runtime.output_dir) / f"{config.job.config_name or 'train'}.log"
    return logged(path, "" if signals.is_first_rank() else f"rank {signals.rank()}")


def _config_dirs(config: HydraConf) -> list[Path]:
    """The folders from which Hydra has composed: conf/, and those that the user has added."""
    return [Path(s.path) for s in config.runtime.config_sources if s.schema == "file"]


def _run(settings: RunSettings, run_dir: Path, program: Callable[[], Program]) -> float | None:
    config = HydraConfig.get()
    code = run_as_child(config, settings.trainer)
    if code:
        raise RuntimeError(f"its process ended with {code}")
    if code is not None:
        return read_summary(run_dir)["optimized_metric"]

    with start_ranks(settings.trainer, list(config.overrides.task), run_dir) as ranks:
        run = program()
        with signals.working():
            return run(settings, ranks, run_dir, _shown_overrides(config))


def _shown_overrides(config: HydraConf) -> list[str]:
    """The overrides as the user writes them, without the `++` that the programs put before some."""
    return [override.removeprefix("++") for override in config.overrides.task]


def _show_sweep(folder: Path) -> None:
    """Print what the jobs of a sweep came to."""
    if table := sweep_overview(folder):
        say_markdown("\n" + table)
        say(f"table of the sweep: {folder / 'results.md'}")


def _show_stop(stop: signals.RunStopped, record: JobRecord) -> None:
    record.broken_off("stopped", str(stop))
    if stop.where and signals.is_first_rank():
        say_error(f"{stop}. The same command continues from there.")


def _show_error(error: Exception, record: JobRecord) -> None:
    """Print the error and record it; its traceback goes into `error.txt` of the run folder."""
    text = "".join(traceback.format_exception(error))
    say_error(f"error: {error}" if isinstance(error, EXPECTED) else text)
    record.broken_off("failed", f"{type(error).__name__}: {error}")

    path = record.run_dir / ERROR
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, text)
    except OSError as unwritten:
        say_error(f"(traceback not written: {unwritten})")
        return
    say_error(f"(traceback: {path})")
