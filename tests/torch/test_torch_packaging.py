"""What is installed: every package of the tree, the configs, the command line, and no framework behind any of them."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE", "nncf_ext", "adapters", "configs")
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "nncf", "transformers", "onnxruntime")


def options() -> configparser.SectionProxy:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup["options"]


def packages_of_the_tree() -> set[str]:
    """Folders with an `__init__.py`, as the import system would name them."""
    found = {"nncf_ext.configs"}
    for root in (ROOT, ROOT / "adapters"):
        for top in root.glob("nncf_ext*"):
            found |= {".".join(file.parent.relative_to(root).parts) for file in top.rglob("__init__.py")}
    return found


def test_setup_cfg_lists_every_package():
    assert set(options()["packages"].split()) == packages_of_the_tree()


def test_adapters_is_a_folder_and_no_package():
    """An import package of that name would shadow a well-known one."""
    assert not (ROOT / "adapters" / "__init__.py").exists()


def test_every_extra_is_pinned():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    wanted = [options()["install_requires"], *setup["options.extras_require"].values()]
    names = [line.split(">=")[0].partition("[")[0].lower() for block in wanted for line in block.split()]
    assert set(names) <= pinned
    assert "torch==2.13.0" in lines


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the sources, so that nothing is built in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.egg-info")
    for name in SOURCES:
        original = ROOT / name
        if original.is_dir():
            shutil.copytree(original, source / name, ignore=unwanted)
        else:
            shutil.copy(original, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of an environment with the wheel, and with everything else from the environment of this test run."""
    folder = tmp_path_factory.mktemp("clean") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    interpreter = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    installed = subprocess.run(install, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    own = subprocess.run(
        [interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True
    )
    (Path(own.stdout.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def run(python: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([python, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)


def command_line(python: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed `nncf-ext` script, from a folder outside the repository."""
    return run(python, tmp_path, str(python.parent / "nncf-ext"), *arguments)


def test_wheel_has_the_configs_and_the_sources(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"nncf_ext/configs/{file.name}" for file in (ROOT / "configs").glob("*.json")} <= names
    for package in packages_of_the_tree():
        assert f"{package.replace('.', '/')}/__init__.py" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "notebooks", "adapters/"))]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the kernel is optional")
def test_wheel_has_the_compiled_kernel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.startswith("nncf_ext_torch/_kernels.")]


def test_wheel_imports_without_a_framework(python, tmp_path):
    program = (
        "import sys, nncf_ext, nncf_ext.tools.cli, nncf_ext.compress, nncf_ext.tools.inspection\n"
        f"print(nncf_ext.__file__, [name for name in {FRAMEWORKS!r} if name in sys.modules])"
    )
    result = run(python, tmp_path, "-c", program)
    assert result.returncode == 0, result.stderr
    file, _, loaded = result.stdout.strip().partition(" ")
    assert str(python.parent.parent) in file, "imported from the repository, not from the wheel"
    assert loaded == "[]"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A folder with the sources, where the installed package is found after them."""
    folder = tmp_path_factory.mktemp("clone")
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    for name in ("nncf_ext", "adapters", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    return folder


def test_scripts_in_a_clone_find_the_configs(python, clone):
    program = (
        "import nncf_ext, nncf_ext.configs, nncf_ext.tools.demo\n"
        "with nncf_ext.tools.demo.config_file() as file: print(nncf_ext.__file__, file, len(file.read_text()))"
    )
    result = run(python, clone, "-c", program)
    assert result.returncode == 0, result.stderr
    package, file, size = result.stdout.split()
    assert Path(package).parents[1] == clone and int(size) > 100
    assert Path(file) == clone / "configs" / "demo.json"


def test_adapters_of_the_wheel_are_imported_in_a_clone(python, clone):
    program = "import nncf_ext_torch, nncf_ext_torch.demo, nncf_ext\nprint(nncf_ext.__file__, nncf_ext_torch.__file__)"
    result = run(python, clone, "-c", program)
    assert result.returncode == 0, result.stderr
    core, adapter = result.stdout.split()
    assert Path(core).is_relative_to(clone) and not Path(adapter).is_relative_to(clone)


def test_help_lists_the_commands(python, tmp_path):
    result = command_line(python, tmp_path, "--help")
    assert result.returncode == 0, result.stderr
    for command in ("validate", "schema", "demo", "inspect"):
        assert command in result.stdout


def test_schema_of_the_wheel(python, tmp_path):
    result = command_line(python, tmp_path, "schema")
    assert result.returncode == 0, result.stderr
    assert "compression" in json.loads(result.stdout)["properties"]


def test_validate_of_the_wheel(python, tmp_path):
    program = "import nncf_ext.configs, pathlib; print(pathlib.Path(nncf_ext.configs.__file__).parent / 'demo.json')"
    config = run(python, tmp_path, "-c", program).stdout.strip()
    good = command_line(python, tmp_path, "validate", config)
    assert good.returncode == 0, good.stderr
    assert "magnitude_sparsity" in good.stdout
    bad = tmp_path / "bad.json"
    bad.write_text('{"compression": {"algorithm": "quantisation"}}')
    refused = command_line(python, tmp_path, "validate", str(bad))
    assert refused.returncode == 1
    assert "did you mean 'quantization'" in refused.stderr
    assert "Traceback" not in refused.stderr
