# SPDX-License-Identifier: Apache-2.0

"""The installed plugin is known to an unmodified anomalib, costs other processes nothing, and leaves nothing behind."""

import shlex
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BORROWED = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
SOURCES = ("anomalib_daad", "configs", "hook", "pyproject.toml", "README.md", "LICENSE")

USE_EVERY_NAME = """
    import contextlib, io, sys, yaml
    from anomalib.models import get_model, list_models
    import anomalib_daad
    _, site_packages, configuration = sys.argv
    assert anomalib_daad.__file__.startswith(site_packages), anomalib_daad.__file__
    assert {"daad", "daad_restoration", "mem_ae", "mnad"} <= set(list_models())
    small = {"image_size": [32, 32], "division_rates": [2, 2, 1], "num_items": 5, "base_channels": 4}
    assert isinstance(get_model("daad", **small), anomalib_daad.Daad)
    fewer = {"image_size": [64, 64], "base_channels": 4}
    for short, name in (("daad_restoration", "DaadRestoration"), ("mem_ae", "MemAe"), ("mnad", "Mnad")):
        kind = anomalib_daad.MODELS[name]
        assert isinstance(get_model(short, **{**fewer, "image_size": (64, 64)}), kind)
        for class_path in (name, f"anomalib_daad.{name}", f"anomalib.models.{name}"):
            assert isinstance(get_model({"class_path": class_path, "init_args": fewer}), kind)
    assert isinstance(get_model("DaadRestoration"), anomalib_daad.DaadRestoration)
    for class_path in ("Daad", "anomalib_daad.Daad", "anomalib.models.Daad"):
        model = get_model({"class_path": class_path, "init_args": small})
        assert isinstance(model, anomalib_daad.Daad) and model.hparams.num_items == 5

    from anomalib.cli.cli import AnomalibCLI
    for class_path in ("Daad", "anomalib_daad.Daad"):
        with open(f"{class_path}.yaml", "w") as file:
            yaml.safe_dump({"model": {"class_path": class_path, "init_args": small}}, file)
    named = ["--model", "Daad", "--model.image_size", "[32, 32]", "--model.division_rates", "[2, 2, 1]"]
    commands = [
        ["train", "--data", "MVTecAD", "--config", "Daad.yaml"],
        ["validate", "--data", "MVTecAD", "--config", "anomalib_daad.Daad.yaml"],
        ["test", "--data", "DemoTextures", *named],
        ["predict", "--data", "images", *named],
        ["export", "--export_type", "onnx", *named],
    ]
    for command in commands:
        cli = AnomalibCLI(command, run=False)
        assert type(cli.model).__name__ == "Daad", command
        assert cli.model.model.image_size == (32, 32), command
    command = ["train", "--data", "MVTecAD", "--model", "DaadRestoration", "--model.image_size", "[128, 192]"]
    assert AnomalibCLI([*command, "--model.base_channels", "4"], run=False).model.model.image_size == (128, 192)
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
        AnomalibCLI(["train", "--model.help", "Daad"], run=False)
    assert "division_rates" in help_text.getvalue()

    from anomalib_daad.commands.command_line import main
    printed = io.StringIO()
    sys.argv = ["anomalib-daad", "config", "daad_cpu"]
    with contextlib.redirect_stdout(printed):
        main()
    assert open(configuration).read() in printed.getvalue()

    from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
    config = {"seed": 0, "model": {"class_path": "Daad", "init_args": small}, "data": {"class_path": "DemoTextures"}}
    (job,) = BenchmarkJobGenerator("cpu").generate_jobs(config, None)
    assert isinstance(job.model, anomalib_daad.Daad)
    assert isinstance(job.datamodule, anomalib_daad.DemoTextures)
"""

USE_IN_SPAWNED_WORKER = """
    from torch.utils.data import DataLoader, Dataset

    class Names(Dataset):
        def __len__(self):
            return 1
        def __getitem__(self, index):
            from anomalib.models import list_models
            return "daad" in list_models()

    if __name__ == "__main__":
        (known,) = DataLoader(Names(), num_workers=1, multiprocessing_context="spawn", batch_size=None)
        assert known
"""


STUBS = {
    "anomalib/__init__.py": "",
    "anomalib/models/__init__.py": "names = ['padim']",
    "anomalib_daad/__init__.py": "from anomalib import models; models.names.append('daad')",
}
HOOK_THEN = """
    import importlib, importlib.util, sys
    from importlib.machinery import ModuleSpec
    import _anomalib_daad_hook
    for _ in range(2):
        _anomalib_daad_hook.install()
    assert sum(type(finder) is _anomalib_daad_hook.AnomalibFinder for finder in sys.meta_path) == 1
"""


class Environment:
    """A virtual environment that borrows the heavy dependencies of the running one, but not its start-up hooks."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        self.site_packages = Path(self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (self.site_packages / "borrowed.pth").write_text("\n".join(BORROWED))
        self.before = self.files()

    def run(self, *arguments: str, returncode: int = 0) -> str:
        """Run Python; its output. A failure shows what it printed."""
        result = subprocess.run(
            [str(self.python), *arguments], capture_output=True, text=True, cwd=self.folder, check=False
        )
        assert result.returncode == returncode, result.stdout + result.stderr
        return result.stdout + result.stderr

    def run_script(self, script: str, *arguments: str) -> str:
        path = self.folder / "script.py"
        path.write_text(textwrap.dedent(script))
        return self.run("-W", "ignore", str(path), *arguments)

    def pip(self, *arguments: str) -> str:
        return self.run("-m", "pip", "--disable-pip-version-check", *arguments)

    def files(self) -> set[str]:
        return {str(path) for path in self.site_packages.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def copy_sources(target: Path) -> Path:
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    sources = copy_sources(folder / "sources")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(sources)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.pip("install", "--ignore-installed", "--no-deps", "--no-index", str(wheel))
    return environment


def test_anomalib_knows_every_name(installed) -> None:
    installed.run_script(USE_EVERY_NAME, str(installed.site_packages), str(ROOT / "configs" / "daad_cpu.yaml"))


COMMANDS = {
    "anomalib": "from anomalib.cli.cli import main",
    "anomalib-daad": "from anomalib_daad.commands.command_line import main",
}
SHORT = "--model.image_size [64,64] --model.downscale 2 --model.base_channels 4 --trainer.max_steps 2"


def test_the_readmes_lines_work_without_a_checkout(installed, data_root) -> None:
    for source, target in (("train/good", "parts/good"), ("test/bar", "parts/bad"), ("test/good", "new_images")):
        shutil.copytree(data_root / "part" / source, installed.folder / target)
    section = (ROOT / "README.md").read_text().split("## Your own images")[1]
    lines = section.split("```bash\n")[1].split("```")[0].replace("\\\n", " ").splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["anomalib", "train"],
        ["anomalib-daad", "judge"],
        ["anomalib", "export"],
        ["anomalib-daad", "judge"],
    ]
    commands = [shlex.split(line) + (shlex.split(SHORT) if " train " in line else []) for line in lines]
    for pair in (commands[:2], commands[2:]):  # a process of its own for each line takes twice as long
        script = "".join(f"sys.argv = {words!r}\n{COMMANDS[words[0]]}; main()\n" for words in pair)
        installed.run("-W", "ignore", "-c", f"import sys\n{script}")
    tables = [(installed.folder / name / "scores.csv").read_text() for name in ("judgement", "judged_by_export")]
    scores = [[float(line.split(",")[1]) for line in sorted(table.splitlines()[1:])] for table in tables]
    assert len(scores[0]) == 5
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_spawned_workers_know_the_model(installed) -> None:
    installed.run_script(USE_IN_SPAWNED_WORKER)


def test_module_fallback_where_hooks_do_not_run(installed) -> None:
    prelude = f"import sys; sys.path[:0] = {[str(installed.site_packages), *BORROWED]!r}; "
    arguments = ["train", "--model", "Daad", "--model.image_size", "[33, 33]", "--data", "MVTecAD"]
    run = (
        f"sys.argv = ['anomalib', *{arguments!r}]; import runpy; runpy.run_module('anomalib_daad', run_name='__main__')"
    )
    output = installed.run("-S", "-W", "ignore", "-c", prelude + run, returncode=2)
    (line,) = [line for line in output.splitlines() if line.startswith("anomalib_daad: error: ")]
    assert "33x33 must be divisible" in line
    assert "Traceback" not in output


def test_a_process_without_anomalib_imports_nothing_more(installed) -> None:
    script = "import sys; print(sorted(sys.modules))"
    with_hook = set(eval(installed.run("-I", "-c", script)))
    hook = installed.site_packages / "anomalib_daad.pth"
    start = installed.site_packages / "anomalib_daad.start"
    texts = {path: path.read_text() for path in (hook, start)}
    try:
        for path in texts:
            path.unlink()
        without_hook = set(eval(installed.run("-I", "-c", script)))
    finally:
        for path, text in texts.items():
            path.write_text(text)
    assert with_hook - without_hook == {"_anomalib_daad_hook"}


def test_a_broken_plugin_does_not_break_anomalib(installed) -> None:
    module = installed.site_packages / "anomalib_daad/models/daad/lightning_model.py"
    text = module.read_text()
    try:
        module.write_text("raise RuntimeError('broken on purpose')\n")
        script = "from anomalib.models import list_models; assert 'padim' in list_models(); print('fine')"
        output = installed.run("-W", "ignore", "-c", script)
    finally:
        module.write_text(text)
    assert "fine" in output
    assert "not available" in output
    assert "broken on purpose" in output


def test_uninstalling_leaves_nothing(tmp_path, wheel) -> None:
    environment = Environment(tmp_path / "environment")
    environment.pip("install", "--ignore-installed", "--no-deps", "--no-index", str(wheel))
    assert {"_anomalib_daad_hook.py", "anomalib_daad.pth", "anomalib_daad.start"} <= {
        Path(path).name for path in environment.files()
    }
    environment.run("-c", "import _anomalib_daad_hook")
    environment.pip("uninstall", "-y", "anomalib-daad")
    assert environment.files() == environment.before
    assert not (environment.site_packages / "anomalib_daad").exists()


def test_editable_install(tmp_path) -> None:
    environment = Environment(tmp_path / "environment")
    sources = copy_sources(tmp_path / "sources")
    environment.pip(
        "install", "--ignore-installed", "--no-deps", "--no-index", "--no-build-isolation", "--editable", str(sources)
    )
    script = """
        import sys
        from anomalib.models import get_model, list_models
        assert "daad" in list_models()
        model = get_model("daad", image_size=(32, 32), division_rates=(2, 2, 1), num_items=5, base_channels=4)
        import anomalib_daad
        assert anomalib_daad.__file__.startswith(sys.argv[1]), anomalib_daad.__file__
    """
    environment.run_script(script, str(sources))
    environment.pip("uninstall", "-y", "anomalib-daad")
    (environment.folder / "script.py").unlink()
    assert environment.files() == environment.before


def run_hook(folder: Path, script: str, without: str = "") -> str:
    """Run a script after the hook, with stubs for anomalib and the plugin; its output."""
    for name, text in STUBS.items():
        if name.partition("/")[0] != without:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    shutil.copy(ROOT / "hook/_anomalib_daad_hook.py", folder)
    (folder / "script.py").write_text(textwrap.dedent(HOOK_THEN) + textwrap.dedent(script))
    result = subprocess.run(
        [sys.executable, "-B", "-S", "script.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.mark.parametrize(
    "before",
    [
        "",
        "importlib.util.find_spec('anomalib.models')",
        "importlib.reload(importlib.import_module('anomalib'))",
        "import anomalib_daad",
    ],
)
def test_the_hook_survives_what_comes_before(tmp_path, before) -> None:
    check = """
        from anomalib import models
        assert models.names == ["padim", "daad"], models.names
        assert not any(type(finder) is _anomalib_daad_hook.AnomalibFinder for finder in sys.meta_path)
        assert "exec_module" not in vars(models.__loader__)
    """
    run_hook(tmp_path, before + "\n" + textwrap.dedent(check))


def test_the_hook_outlives_a_failed_import_of_anomalib(tmp_path) -> None:
    script = """
        sys.modules["anomalib.absent"] = None
        path = importlib.util.find_spec("anomalib").submodule_search_locations[0] + "/models/__init__.py"
        text = open(path).read()
        open(path, "w").write("import anomalib.absent")
        try:
            import anomalib.models
        except ImportError:
            open(path, "w").write(text)
        importlib.invalidate_caches()
        from anomalib import models
        assert models.names == ["padim", "daad"]
    """
    run_hook(tmp_path, script)


def test_a_package_that_is_gone_is_logged(tmp_path) -> None:
    output = run_hook(
        tmp_path, "from anomalib import models; assert models.names == ['padim']", without="anomalib_daad"
    )
    assert "No module named 'anomalib_daad'" in output


def test_a_loader_of_another_kind_still_loads_anomalib(tmp_path) -> None:
    script = """
        class Loader:
            __slots__ = ()
            def create_module(self, spec):
                return None
            def exec_module(self, module):
                module.names = ["padim"]

        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                return ModuleSpec(name, Loader()) if name == "anomalib.models" else None

        sys.meta_path.insert(1, Finder)
        from anomalib import models
        assert models.names == ["padim"]
    """
    assert "cannot be extended" in run_hook(tmp_path, script)
