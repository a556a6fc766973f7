"""What an import pulls in, who may import whom, and what an installed wheel can do."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
import yaml

import gato
from gato.cli import main
from gato.cli.recipes import recipes

ROOT = Path(__file__).parent.parent
ROOMS = ("tokenizers", "data", "train", "eval")


def run_python(code: str, cwd: Path = ROOT) -> str:
    """What a new interpreter prints; it must succeed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_of_the_repository() -> list[str]:
    """Tracked files, and new ones that git does not ignore."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


# -- imports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [*ROOMS, "configs"])
def test_a_room_is_no_package_of_its_own(room: str) -> None:
    assert (ROOT / room).is_dir() and not (ROOT / room / "__init__.py").exists()


def test_hugging_faces_tokenizers_is_found_from_the_root() -> None:
    pytest.importorskip("tokenizers")
    code = "import transformers, gato.tokenizers.text as ours, tokenizers; from tokenizers import Tokenizer"
    theirs, ours = run_python(f"{code}; print(tokenizers.__file__, ours.__file__)").split()
    assert not Path(theirs).is_relative_to(ROOT / "tokenizers") and Path(ours) == ROOT / "tokenizers" / "text.py"


@pytest.mark.parametrize("code", ["import gato", "import gato.cli; assert gato.cli.main(['--help']) == 0"])
def test_importing_and_helping_is_light(code: str) -> None:
    heavy = ("torch", "transformers", "gymnasium", "datasets", "accelerate", "deepspeed", "numpy", "pyarrow", "jsonargparse")
    out = run_python(
        f"import sys, time; start = time.perf_counter(); {code}; took = time.perf_counter() - start\n"
        f"print('\\n', took, [m for m in {heavy} if m in sys.modules])"
    )
    seconds, loaded = out.splitlines()[-1].split(maxsplit=1)
    print(f"{code}: {float(seconds) * 1000:.0f} ms")
    assert loaded == "[]"


def test_public_names_resolve() -> None:
    for name in gato.__all__:
        assert getattr(gato, name) is not None
    assert set(gato.__all__) <= set(dir(gato))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        gato.lode  # noqa: B018


def test_training_and_acting_need_no_optional_package() -> None:
    absent = ("deepspeed", "datasets", "gymnasium", "minigrid", "metaworld", "matplotlib", "peft")
    run_python(
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"  # None in sys.modules: importing it fails
        "import gato.train.pretrain, gato.policy, gato.agent, gato.eval.control, gato.eval.report.page, gato.data.mixture, gato.envs\n"
        "[getattr(gato, name) for name in gato.__all__]"
    )


# -- recipes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes())
def test_every_shipped_recipe_loads(name: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["pretrain", name, "--print_config"]) == 0, capsys.readouterr().err
    resolved = yaml.safe_load(capsys.readouterr().out)
    # a clone's network has no settings; what acts has no data, but for a world model, which may read instead of playing
    others = {"clone": {"data"}, "ppo": {"env", "model", "ppo", "meta"}, "world-model": {"env", "data", "model", "dream"}}
    assert set(resolved) == {"learner", "optim", "train"} | others.get(resolved["learner"], {"data", "model"})
    assert resolved["env"]["task"] if "env" in resolved else resolved["data"]["sources"]


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_opens_with_its_command(name: str) -> None:
    assert (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8").startswith(f"# gato pretrain {name}")


# -- the repository --------------------------------------------------------------------------------


def places_of_this_machine() -> list[str]:
    """Where we are, and where packages come from: nothing of it belongs into a file."""
    hosts = re.findall(r"https?://(?:[^/@\s]*@)?([\w.-]+)", " ".join(v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_"))))
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    hosts += re.findall(r"https?://(?:[^/@\s]*@)?([\w.-]+)", listed)
    public = ("localhost", "127.0.0.1", "pypi.org", "download.pytorch.org", "files.pythonhosted.org")
    return [f"{ROOT}/", f"{ROOT.parent}/", f"{Path.home()}/", f"{sys.prefix}/", *(host for host in hosts if host not in public)]


def test_no_file_names_a_place_of_this_machine_or_a_private_host() -> None:
    general = re.compile(
        r"(?<![\w.~$})/-])/(?:home|Users|root|mnt|scratch)/\w"  # somebody's folders
        r"|[A-Z]:\\+Users\\"
        r"|(?:index|extra)[-_]url[= ]+https?://"  # a registry
        r"|https?://(?:localhost|127\.|10\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|[\w.-]+\.(?:internal|corp|local|lan)\b)"
    )
    usual = ("/", "//", "/home/", "/usr/", "/tmp/", "/opt/")
    places = re.compile("|".join(rf"(?<![\w./-]){re.escape(place)}" for place in places_of_this_machine() if place not in usual))
    found = []
    for name in files_of_the_repository():
        text = (ROOT / name).read_bytes().decode("utf-8", errors="ignore")
        if name == "tests/test_packaging.py":
            text = text.replace(general.pattern, "")
        patterns = [places] if "\0" in text else [places, general]
        found += [f"{name}: {match[0]}" for pattern in patterns for match in pattern.finditer(text)]
    assert found == []


# -- the wheel -------------------------------------------------------------------------------------


def test_the_wheel_holds_every_folder_with_code() -> None:
    """Of `gato` and the rooms; `configs` holds files that are no code."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for root in ("gato", *ROOMS) for path in (ROOT / root).rglob("*.py")}
    names = {".".join(folder.parts if folder.parts[0] == "gato" else ("gato", *folder.parts)) for folder in folders}
    assert set(listed) == names | {"gato.configs"} and len(set(listed)) == len(listed)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a new environment that holds our wheel and sees the packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in files_of_the_repository():  # a copy, since building leaves folders behind
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(folder / "source")]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "source")
    venv.create(folder / "env", with_pip=False)
    programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = programs / ("python.exe" if os.name == "nt" else "python")
    (wheel,) = folder.glob("opengato-*.whl")
    install = [*pip, "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # only now, else pip would take an opengato installed beside our dependencies for this one
    theirs = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")}))
    (theirs / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return programs


def run_installed(programs: Path, cwd: Path, *command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))} | {"GATO_HOME": str(cwd / "home")}
    done = subprocess.run([programs / command[0], *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = run_installed(installed, tmp_path, "python", "-c", "import gato, gato.tokenizers.text as t; print(gato.__file__, t.__file__)")
    assert all(Path(place).is_relative_to(installed.parent) for place in where.split())
    rows = run_installed(installed, tmp_path, "gato", "tokenize", "continuous", "--role", "observation", "--", "-1", "0", "1")
    assert [line.split()[1] for line in rows.splitlines()[1:]] == ["32279", "32512", "32744"]
    shown = yaml.safe_load(run_installed(installed, tmp_path, "gato", "show", "gato-79m", "--json"))
    assert shown["parameters"]["total"] == pytest.approx(79e6, rel=0.01)
    assert "installed" in run_installed(installed, tmp_path, "gato", "doctor")


@pytest.mark.slow
def test_the_wheel_brings_recipes_tasks_and_the_reports_style(installed: Path, tmp_path: Path) -> None:
    assert run_installed(installed, tmp_path, "gato", "ls").split() == recipes()
    run_installed(installed, tmp_path, "gato", "cp", "demo", "own.yaml")
    assert (tmp_path / "own.yaml").read_text() == (ROOT / "configs" / "demo.yaml").read_text()
    (tmp_path / "run.json").write_text('{"train": {"name": "empty"}}')
    run_installed(installed, tmp_path, "gato", "plot", ".")
    assert "--main" in (tmp_path / "report.html").read_text()
    tasks = run_installed(
        installed,
        tmp_path,
        "python",
        "-c",
        "from importlib import resources as r; print(len((r.files('gato.configs') / 'tasks.yaml').read_text()))",
    )
    assert int(tasks) == len((ROOT / "configs" / "tasks.yaml").read_text())


@pytest.mark.slow
def test_hugging_faces_tokenizers_is_found_beside_the_wheel(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    code = "import gato.tokenizers.text, tokenizers; print(tokenizers.Tokenizer.__name__)"
    assert run_installed(installed, tmp_path, "python", "-c", code) == "Tokenizer\n"
