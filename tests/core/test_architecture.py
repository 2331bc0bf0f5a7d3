"""The rules of docs/architecture.md, read off the imports."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "nncf_ext").rglob("*.py"))
ADAPTERS = sorted((ROOT / "adapters").rglob("*.py"))
SHARED = ("__init__", "code_book", "learned_sparsity", "noisy_weights", "sparsity", "staged_quantizers", "weights")  # by several
ALGORITHMS = sorted(path for path in (ROOT / "nncf_ext" / "algorithms").glob("*.py") if path.stem not in SHARED)
# The core's rooms (packages, and modules of their own), from the ground up: a room imports from those below it, and itself.
LAYERS = (
    ("errors", "graph", "einsum", "noise", "numpy_xp", "schedules", "encodings", "text_table", "forward_loss", "nncf2"),
    ("files", "numerics", "ops", "scopes", "data", "step_watch", "state_matching", "closeness"),
    ("config", "edits"),
    ("optimizer_hook",),
    ("adapter", "channels", "checkpoint", "drawing", "untouched"),
    ("distillation", "report"),
    ("algorithm", "packed", "sparsity"),
    ("calibration",),
    ("coding", "quantization"),
    ("algorithms", "export"),
    ("nncf_config", "saved_plan"),
    ("soup",),
    ("controller",),
    ("compress", "training"),
    ("__init__",),
    ("tools",),
)
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "tf2onnx", "onnxscript"}
HEAVY = {
    "nncf",
    "transformers",
    "onnxruntime",
    "openvino",
    "onnxscript",
    "sklearn",
    "optuna",
    "matplotlib",
}  # seconds to load: only inside functions


PRIVATE = ("keras_private", "torch_private")  # of each adapter the one module that touches private names of its framework
# Parameters, buffers and modules that an nn.Module has registered: its subclasses everywhere rely on these three, and no public
# function tells what is registered as None, or writes past `__setattr__`.
OF_MODULES = {"_parameters", "_buffers", "_modules"}
OF_PYTHON = {"_getframe", "_fields"}
READ_BY_NAME = {"getattr", "hasattr", "setattr", "delattr", "get", "pop", "set", "setdefault"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    """`nncf_ext/export/fold.py` -> `nncf_ext.export.fold`, `adapters/nncf_ext_torch/xp.py` -> `nncf_ext_torch.xp`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part not in ("adapters", "__init__"))


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Full names of what the statements in `tree` import: `a.b` and `a.b.c` for `from a.b import c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def all_imports(path: Path) -> set[str]:
    return set(imports(ast.parse(path.read_text(encoding="utf-8")), module_of(path)))


def top_level_imports(path: Path) -> set[str]:
    """What importing the module imports at once: not the bodies of functions, nor `if TYPE_CHECKING:`."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.update(imports(node, module_of(path)))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


PATHS = {module_of(path): path for path in CORE + ADAPTERS}
MODULES = set(PATHS)


def packages(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "nncf_ext").with_suffix("").parts[0]


def modules_imported(path: Path) -> set[str]:
    """Of this repository, wherever in the module they are imported: in functions, and for types alone, too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in MODULES else str(node.module) for name in names)
    return found & MODULES - {module_of(path)}


def test_every_room_of_the_core_has_a_layer():
    assert sorted({room_of(path) for path in CORE}) == sorted(room for layer in LAYERS for room in layer)


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_imports_downwards(path):
    layer = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
    own, rooms = room_of(path), {room_of(PATHS[module]) for module in modules_imported(path)}
    assert not {room for room in rooms - {own} if layer[room] >= layer[own]}


def test_no_module_imports_itself_by_a_detour():
    graph = {module_of(path): modules_imported(path) for path in CORE + ADAPTERS}
    assert list(TopologicalSorter(graph).static_order())  # CycleError where one does


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_core_imports_no_framework_and_no_adapter(path):
    found = packages(all_imports(path))
    assert not found & FRAMEWORKS
    assert not {name for name in found if name.startswith("nncf_ext_")}


@pytest.mark.parametrize("path", CORE + ADAPTERS, ids=name_of)
def test_what_loads_slowly_is_imported_in_functions(path):
    assert not packages(top_level_imports(path)) & HEAVY


@pytest.mark.parametrize("path", ADAPTERS, ids=name_of)
def test_adapters_know_no_algorithm(path):
    assert not {name for name in all_imports(path) if name.startswith("nncf_ext.algorithms")}


@pytest.mark.parametrize("path", [path for path in ADAPTERS if path.stem != "demo"], ids=name_of)
def test_adapters_name_no_algorithm(path):
    """The demos are users' scripts: they may read the statistics of an algorithm that their config names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    }
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | (texts - docstrings)
    assert not names & {algorithm.stem for algorithm in ALGORITHMS}


@pytest.mark.parametrize("path", ADAPTERS, ids=name_of)
def test_an_adapter_knows_one_framework(path):
    other = {"nncf_ext_torch": {"tensorflow", "keras"}, "nncf_ext_tensorflow": {"torch"}}[path.relative_to(ROOT).parts[1]]
    assert not packages(all_imports(path)) & other


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and name.startswith("_") and name.strip("_") != "" and name[:2] != "__"


def attributes_made(tree: ast.AST) -> set[str]:
    """What the classes in `tree` give their instances: methods, fields, and what is written to `self`."""
    made: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            made |= {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
            made |= {target.id for target in fields if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            made.add(node.attr)
    return made


def private_names(tree: ast.AST, own: set[str]) -> set[str]:
    """Private names of others in `tree`, as attributes, imports, and strings that attributes are read by.

    own: attributes that are ours. What begins with `_nncf_ext` is, too, on the objects of a framework.
    """
    found: set[str] = set()
    for name in imports(tree, ""):
        package, *parts = name.split(".")
        inner = {"keras": "src", "tensorflow": "python"}.get(package)
        if package in FRAMEWORKS and any(is_private(part) or part == inner for part in parts):
            found.add(name)
    texts: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            inherited = ast.unparse(node.value) == "super()"
            others = is_private(node.attr) and (inherited or node.attr not in own)
            if others or node.attr == "__internal__" or ast.unparse(node) == "keras.src":
                found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in READ_BY_NAME:
            texts += node.args[:2]
        elif isinstance(node, ast.Subscript):
            texts.append(node.slice)
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            texts.append(node.left)
    found |= {text.value for text in texts if isinstance(text, ast.Constant) and is_private(text.value) and text.value not in own}
    return {name for name in found if not name.startswith("_nncf_ext")}


@pytest.mark.parametrize("package", ["nncf_ext_torch", "nncf_ext_tensorflow"])
def test_one_module_of_an_adapter_touches_private_names_of_its_framework(package):
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in ADAPTERS if package in path.parts}
    own = OF_PYTHON | {name for path in trees if path.stem not in PRIVATE for name in attributes_made(trees[path])}
    own |= OF_MODULES if package == "nncf_ext_torch" else set()
    found = {name_of(path): private_names(tree, own) for path, tree in trees.items() if path.stem not in PRIVATE}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import torch\ntorch._C._is_tracing()", {"_C", "_is_tracing"}),
        ("from torch.utils import _pytree", {"torch.utils._pytree"}),
        ("import torch._dynamo", {"torch._dynamo"}),
        ("from keras.src.models import Functional", {"keras.src.models", "keras.src.models.Functional"}),
        ("def f(layer): return layer._flatten_layers()", {"_flatten_layers"}),
        ("class A(Model):\n    def _inputs(self, x): return super()._inputs(x)", {"_inputs"}),
        ("def f(layer): return getattr(layer, '_functional', None)", {"_functional"}),
        ("def f(layer): return vars(layer)['_spec'] if '_is_set' in vars(layer) else None", {"_spec", "_is_set"}),
        ("def f(layer): return vars(layer).get('_spec')", {"_spec"}),
        ("class A:\n    def __init__(self): self._own = 1\n    def f(self, other): return other._own", set()),
        ("class A:\n    _own: int\n    def _g(self): return self._own + self._g()", set()),
        ("from nncf_ext_torch.sites import _own\nname = f'{1}_x'.removesuffix('_x')\n_own(name, x='_x')", set()),
        ("def f(module): return getattr(module, '_nncf_ext', module.__dict__)", set()),
    ],
)
def test_what_a_private_name_of_others_is(code, names):
    tree = ast.parse(code)
    assert private_names(tree, attributes_made(tree)) == names


@pytest.mark.parametrize("path", ALGORITHMS, ids=name_of)
def test_algorithms_do_not_import_each_other(path):
    others = {module_of(other) for other in ALGORITHMS if other != path}
    assert not {name for name in all_imports(path) for other in others if name == other or name.startswith(f"{other}.")}


@pytest.mark.parametrize("path", ALGORITHMS, ids=name_of)
def test_algorithms_do_not_know_the_controller(path):
    assert "nncf_ext.controller" not in all_imports(path)


def test_schedules_know_nobody():
    assert not {name for name in all_imports(ROOT / "nncf_ext" / "schedules.py") if name.startswith("nncf_ext")}


def test_one_module_touches_nncf():
    users = [name_of(path) for path in CORE + ADAPTERS if "nncf" in packages(all_imports(path))]
    assert users == ["nncf_ext/quantization/nncf_rules.py"]


@pytest.mark.parametrize("path", CORE + ADAPTERS, ids=name_of)
def test_no_pickle(path):
    """Loading one runs code: checkpoints are safetensors and JSON."""
    assert not packages(all_imports(path)) & {"pickle", "cloudpickle", "dill", "joblib"}
