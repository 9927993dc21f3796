"""What is released: the source archive builds, the wheel runs where nothing else is, and what is promised agrees."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("scikit_build_core")
pytest.importorskip("nanobind")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*words: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    build = "import sys; from scikit_build_core.build import build_sdist; print(build_sdist(sys.argv[1]))"
    name = run(sys.executable, "-c", build, folder, cwd=ROOT).split()[-1]
    return folder / name


def test_the_source_archive_holds_what_a_build_needs_and_no_more(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        size = sum(member.size for member in archive.getmembers())
    needed = {"pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "CHANGELOG.md", "src/thrifty/py.typed"}
    assert needed <= names
    tracked = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert tracked <= names
    assert not [name for name in names if name.startswith((".venv", "build/", "runs/", "artifacts/"))]
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]
    assert size < 20e6


def test_the_source_archive_builds_and_runs_in_an_environment_without_anything(sdist: Path, tmp_path: Path) -> None:
    """Without kernels: compiling them is the other test's. torch and its friends are seen, nothing is fetched."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    wheel = _wheel(source, tmp_path / "wheels", THRIFTY_NO_NATIVE="1")
    assert "no kernels" in _installed(wheel, tmp_path)


@pytest.mark.slow
def test_the_wheel_of_this_platform_runs_in_an_empty_environment(tmp_path: Path) -> None:
    """Built in the checkout's own build folder, so that what is compiled already is not compiled again."""
    wheel = _wheel(ROOT, tmp_path / "wheels")
    with zipfile.ZipFile(wheel) as archive:
        kernels = [name for name in archive.namelist() if "_native" in name]
        assert not [name for name in archive.namelist() if name.startswith("thrifty.libs/")]
    said = _installed(wheel, tmp_path)
    if kernels:
        assert sysconfig.get_platform().replace("-", "_") in wheel.name and "no kernels" not in said
    else:
        assert "no kernels" in said


def _wheel(source: Path, folder: Path, **environment: str) -> Path:
    words = ["-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-cache-dir", "--wheel-dir", folder, source]
    run(sys.executable, *words, cwd=folder.parent, **environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _installed(wheel: Path, folder: Path) -> str:
    """Unpack the wheel into an environment of its own that sees this one's packages but not this checkout."""
    place = folder / "environment"
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", packages, wheel]
    run(*pip, cwd=folder)
    # Paths in a .pth come after the environment's own packages, and editable installs of the other are left out.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    said = run(place / "bin" / "python", ROOT / "tools" / "check_install.py", cwd=folder, OMP_NUM_THREADS="1")
    assert str(packages) in said
    return said


def test_the_version_is_in_the_changelog() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] == PROJECT["project"]["version"]


def test_requirements_are_few_and_without_upper_bounds() -> None:
    every = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        every += extra
    assert not [one for one in every if re.search(r"<|==|~=", one)]
    assert len(PROJECT["project"]["dependencies"]) <= 7


def test_all_holds_every_extra_of_users() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (listed,) = extras["all"]
    users = set(extras) - {"all", "dev", "docs", "mutants", "rivals"}
    assert set(re.search(r"\[(.*)\]", listed)[1].split(",")) == users


def test_wheels_are_configured_for_the_pythons_that_are_promised() -> None:
    settings = PROJECT["tool"]["cibuildwheel"]
    assert settings["build"].split() == ["cp311-*", "cp312-*", "cp313-*"]
    assert "--exclude libgomp.so.1" in settings["linux"]["repair-wheel-command"]
    assert "tools/check_install.py" in settings["test-command"] and (ROOT / "tools" / "check_install.py").exists()
    assert PROJECT["project"]["requires-python"] == ">=3.11"
