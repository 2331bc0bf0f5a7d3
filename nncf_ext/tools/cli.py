"""The command line: nncf-ext validate | schema | demo | inspect | plot | compare | soup | pack | unpack."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nncf_ext import __version__
from nncf_ext.text_table import TextTable

FRAMEWORKS = {"torch": ("torch", "nncf_ext_torch"), "tensorflow": ("tensorflow", "nncf_ext_tensorflow")}


EXIT_CODES = """exit codes: 0 done, or nobody reads on; 1 a problem with a file, a config or a model, in one sentence on
stderr; 2 a wrong command line; 130 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code, see `EXIT_CODES`."""
    try:
        options = command_line().parse_args(arguments)
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who reads has enough, `head` say; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, MemoryError) as error:
        Console(stderr=True).print(
            f"nncf-ext: {error or 'not enough memory'}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        return 1
    except KeyboardInterrupt:
        return 130


def command_line() -> argparse.ArgumentParser:
    """The commands with their arguments; docs/cli.md is made of them."""
    parser = argparse.ArgumentParser(prog="nncf-ext", description="Compress neural networks while they train.", epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"nncf_ext {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    validate = commands.add_parser(
        "validate",
        help="check a config file and show what it asks for",
        epilog="example: nncf-ext validate configs/int8.json --model train.py:make_model",
    )
    validate.add_argument("file", type=Path, metavar="FILE.json", help="a config; comments and trailing commas are allowed")
    validate.add_argument(
        "--model",
        metavar="MODEL.py:FUNCTION",
        help="show what happens to each layer of this model: a function without arguments that returns it, in a file or "
        "(package.module:FUNCTION) an importable module",
    )
    validate.set_defaults(run=_validate)

    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of config files, for editors",
        epilog="example: nncf-ext schema > schema.json",
    )
    schema.set_defaults(run=_schema)

    demo = commands.add_parser(
        "demo",
        help="train, compress, export and verify a small network on scans of digits",
        epilog="example: nncf-ext demo --framework torch",
    )
    demo.add_argument("--framework", choices=sorted(FRAMEWORKS), help="default: every one that is installed")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for the files (default: %(default)s)")
    demo.set_defaults(run=_demo)

    plot = commands.add_parser(
        "plot",
        help="draw a run's curves and its layers as PNG files",
        epilog="example: nncf-ext plot runs/demo",
    )
    plot.add_argument(
        "folder",
        type=Path,
        metavar="RUN",
        help="a folder with a run.jsonl (RunLog, Keras callbacks and the demo write it), or of such",
    )
    plot.add_argument("--output", type=Path, help="folder for the pictures (default: the run's)")
    plot.set_defaults(run=_plot)

    compare = commands.add_parser(
        "compare",
        help="show runs beside each other: accuracy against size and latency",
        epilog="example: nncf-ext compare runs/int8 runs/pruned --original float.onnx --latency",
    )
    compare.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a folder with a run.jsonl and a model file, or of such; or the file"
    )
    compare.add_argument("--original", type=Path, metavar="FILE", help="the model that ratios are of (default: the first run's)")
    compare.add_argument("--metric", help="name of the accuracy in the logs (default: val_accuracy or accuracy)")
    compare.add_argument("--latency", action="store_true", help="time the files in ONNX Runtime")
    compare.add_argument("--alpha", type=float, help="with --beta: score runs by alpha * accuracy + beta * compression ratio")
    compare.add_argument("--beta", type=float, help="see --alpha")
    compare.add_argument("--output", type=Path, default=Path("compare.png"), metavar="FILE.png", help="default: %(default)s")
    compare.set_defaults(run=_compare)

    pack = commands.add_parser(
        "pack",
        help="code the weights of a .safetensors or .onnx file to the bit",
        epilog="example: nncf-ext pack model.onnx",
    )
    pack.add_argument("file", type=Path, metavar="MODEL", help="a .safetensors or .onnx file")
    pack.add_argument("--output", type=Path, metavar="FILE.ncp", help="default: beside MODEL")
    pack.set_defaults(run=_pack)

    unpack = commands.add_parser(
        "unpack",
        help="write the .safetensors or .onnx file that a packed file holds",
        epilog="example: nncf-ext unpack model.ncp",
    )
    unpack.add_argument("file", type=Path, metavar="FILE.ncp", help="a packed file")
    unpack.add_argument("--output", type=Path, metavar="MODEL", help="default: beside FILE.ncp")
    unpack.set_defaults(run=_unpack)

    inspect = commands.add_parser(
        "inspect",
        help="show per layer what was compressed, or how a packed file is coded",
        epilog="example: nncf-ext inspect runs/int8",
    )
    inspect.add_argument("path", type=Path, metavar="RUN_OR_FILE", help="a checkpoint, a folder with one, or a packed file")
    inspect.set_defaults(run=_inspect)

    soup = commands.add_parser(
        "soup",
        help="average checkpoints of models that were trained from one start",
        epilog="example: nncf-ext soup runs/1 runs/2 runs/3 --output soup.safetensors",
    )
    soup.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a checkpoint, or a folder with one, two or more times")
    soup.add_argument("--method", choices=("uniform", "greedy", "wise-ft"), default="uniform", help="default: %(default)s")
    soup.add_argument("--output", type=Path, required=True, metavar="FILE", help="the soup, as a checkpoint like the others")
    soup.add_argument("--alpha", type=float, default=0.5, help="wise-ft: share of the second model (default: %(default)s)")
    soup.add_argument(
        "--masks", choices=("refuse", "union", "intersection"), default="refuse", help="where they differ (default: %(default)s)"
    )
    soup.add_argument("--model", metavar="MODEL.py:FUNCTION", help="returns a model like the ingredients, to try soups in")
    soup.add_argument("--evaluate", metavar="MODEL.py:FUNCTION", help="its score on held-out data, for greedy: FUNCTION(model)")
    soup.add_argument(
        "--batches", metavar="MODEL.py:FUNCTION", help="returns model inputs, for new BatchNorm statistics after each merge"
    )
    soup.set_defaults(run=_soup)
    return parser


def _validate(options: argparse.Namespace) -> int:
    from nncf_ext.nncf_config import validate_file

    asked = validate_file(options.file)
    tables = [] if options.model is None else _previewed(options.file, options.model)
    print(asked)
    console = Console(markup=False)  # the names of layers have [brackets]
    for table in tables:
        console.print(table)
    return 0


def _previewed(file: Path, argument: str) -> list[TextTable]:
    """What becomes of each layer of the user's model. The adapter is that of the model's framework, and the only one imported."""
    from nncf_ext.nncf_config import NNCFConfig
    from nncf_ext.tools.user_model import adapter_package, load_model

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    model = load_model(argument)
    return adapter_package(model).preview_compression(model, NNCFConfig.from_json(file)).tables()


def _schema(options: argparse.Namespace) -> int:
    from nncf_ext.nncf_config import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _demo(options: argparse.Namespace) -> int:
    wanted = [options.framework] if options.framework else list(FRAMEWORKS)
    present = [name for name in wanted if importlib.util.find_spec(FRAMEWORKS[name][0])]
    if not present:
        extra = options.framework or "torch"
        raise ValueError(f"demo: {' and '.join(wanted)} not installed: pip install 'nncf_ext[{extra},demo]'")
    if not importlib.util.find_spec("sklearn"):
        raise ValueError("demo: scikit-learn, which has the data, is not installed: pip install 'nncf_ext[demo]'")
    for name in present:  # one process each: the two frameworks do not share one well
        folder = (options.output / name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        # -P: what lies in the present folder, a clone of the repository say, is not imported instead of what is installed
        command = [sys.executable, "-P", "-m", f"{FRAMEWORKS[name][1]}.demo", str(folder)]
        # stderr is for failures: TensorFlow greets there on import, at every log level
        done = subprocess.run(command, env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.stderr.write(done.stderr)
            raise ValueError(f"demo: the {name} part ended with exit code {done.returncode}")
    return 0


def _plot(options: argparse.Namespace) -> int:
    from nncf_ext.tools.plotting import plot_run
    from nncf_ext.training.run_log import runs_in

    runs = runs_in(options.folder)
    for run in runs:
        output = options.output if options.output is None or len(runs) == 1 else options.output / run.name
        for path in plot_run(run, output):
            print(path)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from nncf_ext.tools.comparison import compare_runs, draw, table

    if (options.alpha is None) != (options.beta is None):
        raise ValueError("compare: found one of --alpha and --beta, expected both or none")
    weights = None if options.alpha is None else (options.alpha, options.beta)
    _expect_another(options.output, *options.runs)
    runs = compare_runs(options.runs, options.original, options.metric, options.latency, weights)
    Console(markup=False).print(table(runs))
    print(draw(runs, options.output))
    return 0


def _pack(options: argparse.Namespace) -> int:
    from nncf_ext.packed import pack_file

    target = options.output or options.file.with_suffix(".ncp")
    _expect_another(target, options.file)
    pack_file(options.file, target)
    before, after = options.file.stat().st_size, target.stat().st_size
    print(f"{target}: {after:,} bytes, {before / after:.2f} times smaller")
    return 0


def _unpack(options: argparse.Namespace) -> int:
    from nncf_ext.packed import unpack_file

    if options.output is not None:
        _expect_another(options.output, options.file)
    print(unpack_file(options.file, options.output))
    return 0


def _expect_another(output: Path, *inputs: Path) -> None:
    """ValueError where the output would replace an input."""
    for given in inputs:
        if output.exists() and given.exists() and output.samefile(given):
            raise ValueError(f"--output: {output} is the input, expected another file")


def _inspect(options: argparse.Namespace) -> int:
    if options.path.suffix == ".ncp":
        from nncf_ext.packed.inspection import describe_packed

        Console(markup=False).print(describe_packed(options.path))
        return 0
    from nncf_ext.checkpoint import find_checkpoint
    from nncf_ext.tools.inspection import describe

    console = Console(markup=False)  # the names of layers have [brackets]
    for table in describe(find_checkpoint(options.path)):
        console.print(table)
    return 0


def _soup(options: argparse.Namespace) -> int:
    from nncf_ext.checkpoint import find_checkpoint
    from nncf_ext.soup import Soup, SoupError, uniform, wise_ft
    from nncf_ext.tools.user_model import adapter_package, load_function, load_model

    if not options.output.parent.is_dir():
        raise SoupError(f"--output: {options.output.parent} is not a folder")
    _expect_another(options.output, *(find_checkpoint(run) for run in options.runs))
    needs = [name for name in ("evaluate", "batches") if getattr(options, name) is not None]
    if options.method == "greedy" and not (options.model and options.evaluate):
        raise SoupError("greedy: expected --model and --evaluate: it adds what does not lower the score of the soup")
    if needs and not options.model:
        raise SoupError(f"--{needs[0]}: expected --model too, the model that it is for")
    if options.model:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        functions = {name: load_function(f"--{name}", getattr(options, name)) for name in needs}
        model = load_model(options.model)
        soup: Soup = adapter_package(model).make_soup(
            model, options.runs, options.method, masks=options.masks, alpha=options.alpha, **functions
        )
    elif options.method == "wise-ft":
        soup = wise_ft(options.runs, options.alpha, options.masks)
    else:
        soup = uniform(options.runs, options.masks)
    soup.save(options.output)
    print(soup)
    statistics = [name for name in soup.tensors if name.endswith(("running_var", "moving_variance"))]
    if statistics and not options.batches:
        print(f"BatchNorm statistics were averaged ({statistics[0]}, ...): estimate them anew, see --model and --batches")
    return 0


if __name__ == "__main__":
    sys.exit(main())
