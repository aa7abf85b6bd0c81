"""The documentation is true: its Python runs, its command lines and YAML are ones the recipe accepts."""

import io
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from codecdiff.recipes.adapter import Experiment as AdapterExperiment  # pyright: ignore[reportMissingImports]  # as installed
from codecdiff.recipes.distill import Experiment as DistillExperiment  # pyright: ignore[reportMissingImports]
from small import RATE, tone
from typer.testing import CliRunner

from codecdiff import Pipeline, config
from codecdiff.cli.main import app
from codecdiff.cli.train import config_file
from codecdiff.data.code_store import CodeStore
from codecdiff.denoisers.adapted import AdapterConfig
from codecdiff.training.distillation import DistillConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
LONG = [ROOT / "docs" / name for name in ("controls.md", "python.md")]  # which generate music for seconds
TUTORIALS = sorted((ROOT / "docs").glob("write-a-*.md"))  # they train with the part they write: test_tutorials.py
NEEDS_NETWORK = {
    f"codecdiff-{name}" for name in ("dac", "encodec", "mimi", "snac", "t5", "minilm", "clap", "vggish", "mert")
}  # their examples load released weights
NAMED = re.compile(r"^`(\w+)\.py`:\n\n```python\n(.*?)^```$", flags=re.S | re.M)
LINK = re.compile(r"\]\((?!http)([^)#]+)")


def blocks(page: Path, language: str) -> list[str]:
    fenced = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [text for named, text in fenced if named == language]


def commands(start: str, pages: Sequence[Path] = PAGES) -> list[str]:
    """Give the lines of all blocks without a language that begin so, without their comments."""
    lines = [line.split("  #")[0] for page in pages for block in blocks(page, "") for line in block.splitlines()]
    return [line for line in lines if line.startswith(start)]


@pytest.fixture(scope="module")
def experiment() -> Any:
    return runpy.run_path(str(ROOT / "recipes" / "discodiff.py"))["Experiment"]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, id=str(page.relative_to(ROOT)), marks=pytest.mark.integration if page in [*TUTORIALS, *LONG] else ()
        )
        for page in PAGES
        if page.parent.name not in NEEDS_NETWORK
    ],
)
def test_the_python_of_a_page_runs(
    page: Path,
    make_pipeline: Callable[..., Pipeline],
    store: CodeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "mine").symlink_to(store.folder)
    soundfile.write(tmp_path / "in.wav", tone(3.0, 220), RATE)
    monkeypatch.setattr("codecdiff.pipeline.pipeline.load", lambda model, **_: make_pipeline())
    monkeypatch.setattr(Pipeline, "enable_model_cpu_offload", lambda self: self)  # which needs a GPU
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module, text in NAMED.findall(page.read_text(encoding="utf-8")):  # which the page's other files may import
        (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, module, raising=False)
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
    for name, test in list(names.items()):
        if name.startswith("test_"):
            test()


def test_each_example_of_a_metric_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = ROOT / "docs" / "scores.md"
    ((module, text),) = NAMED.findall(page.read_text(encoding="utf-8"))
    (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    examples = blocks(page, "python")
    for example in examples:
        exec(compile(example, page.name, "exec"), {"__name__": page.stem})
    assert sum("print(" in example for example in examples) == len(examples) - 1  # all but the module


TRAINING = [page for page in PAGES if page not in TUTORIALS]


@pytest.mark.parametrize("line", [*commands("codecdiff train", TRAINING), *commands("accelerate launch", TRAINING)])
def test_overrides_are_accepted(line: str, experiment: Any):
    words = shlex.split(line)
    if "[--config" in words:
        return
    is_adapter = "--adapter" in words
    file = config_file(
        words[words.index("--config") + 1] if "--config" in words else "adapter" if is_adapter else "starter"
    )
    config.load_config(AdapterExperiment if is_adapter else experiment, file, [word for word in words if "=" in word])


@pytest.mark.parametrize(
    ("page", "start"), [("configuration", "train.max_train_steps"), ("patterns", "splitter=parallel")]
)
def test_the_examples_of_overrides_are_accepted(page: str, start: str, experiment: Any):
    block = next(block for block in blocks(ROOT / "docs" / f"{page}.md", "") if block.startswith(start))
    for line in block.splitlines():
        words = shlex.split(line.split("  #")[0])
        config.load_config(experiment, ROOT / "recipes" / "configs" / "starter.yaml", words)


@pytest.mark.parametrize("page", ["configuration", "patterns"])
def test_the_yaml_of_a_page_is_accepted(page: str, experiment: Any):
    for block in blocks(ROOT / "docs" / f"{page}.md", "yaml"):
        experiment(**{"codec": {}, "splitter": {}, "denoiser": {}, **yaml.safe_load(block)})


def test_every_setting_is_documented(experiment: Any):
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name, field in experiment.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for setting in [name] if inner is None else [f"{name}.{key}" for key in inner]:
            assert f"`{setting}`" in page, setting


def test_every_setting_of_an_adapter_is_documented():
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    settings = [*(f"adapter.{name}" for name in AdapterConfig.model_fields), *AdapterExperiment.model_fields]
    assert [name for name in settings if f"`{name}" not in page] == []


def test_every_setting_of_a_distillation_is_documented():
    page = (ROOT / "docs" / "few-steps.md").read_text(encoding="utf-8")
    settings = [*(f"distill.{name}" for name in DistillConfig.model_fields), *DistillExperiment.model_fields]
    assert [name for name in settings if f"`{name}" not in page] == []


@pytest.mark.parametrize("line", commands("codecdiff distill"))
def test_words_of_a_distillation_are_accepted(line: str):
    words = [word for word in shlex.split(line) if "=" in word]
    config.load_config(DistillExperiment, config_file("distill"), words)


@cache
def help_of(*command: str) -> str:
    return CliRunner().invoke(app, [*command, "--help"]).output


def migrations() -> list[str]:
    """Return the code in the codecdiff column of the migration page."""
    rows = re.findall(r"^\| .* \| (.*) \|$", (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8"), flags=re.M)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("line", [*commands("codecdiff "), *(m for m in migrations() if m.startswith("codecdiff "))])
def test_commands_exist_with_their_options(line: str):
    words = shlex.split(line)[1:]
    shown = help_of(*words[: 1 + (words[0] == "data")])
    assert all(word in shown for word in words if word.startswith("-"))


def test_what_other_projects_are_mapped_to_exists(experiment: Any, make_pipeline: Callable[..., Pipeline]):
    codes = migrations()
    examples = {"start_from=MODEL", "start_from=FOLDER"}
    settings = [code for code in codes if re.fullmatch(r"[a-z_.]+=[\w.-]+", code) and code.split("=")[0] != "seed"]
    assert len(settings) > 8
    file = config_file("starter")
    for setting in {*settings} - examples:
        config.load_config(experiment, file, [setting.replace("...", "1")])
    names = [code for code in codes if re.fullmatch(r"(data|train|stages)\.[a-z_.]+", code)]
    assert names
    assert all(
        name.split(".")[1] in experiment.model_fields[name.split(".")[0]].annotation.model_fields for name in names
    )
    used = {name for code in codes for name in re.findall(r"\b(?:pipe|Pipeline)\.(\w+)", code)}
    assert {"load_adapter", "stages", "from_pretrained"} <= used
    assert [name for name in used if not hasattr(Pipeline, name)] == []
    options = {name for code in codes if code.startswith("pipe(") for name in re.findall(r"(\w+)=", code)}
    values: dict[str, Any] = {**dict.fromkeys(options, 1), "audio_length_in_s": 0.2}
    make_pipeline()("", **values)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_page_of_packages_is_what_their_metadata_says():
    written = runpy.run_path(str(ROOT / "docs" / "packages.py"))["render"]()
    assert (ROOT / "docs" / "packages.md").read_text(encoding="utf-8") == written, "Run python docs/packages.py."
    assert all(f"plugins/{folder.name}" in written for folder in ROOT.glob("plugins/codecdiff-*"))


def test_every_package_has_urls():
    for file in [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]:
        urls = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["urls"]
        assert urls, file
        assert all(re.fullmatch(r"https://\S+", url) for url in urls.values()), file


def test_every_page_is_in_the_table_of_contents():
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    assert sorted(re.findall(r"- ([\w-]+\.md)", contents)) == sorted(page.name for page in ROOT.glob("docs/*.md"))


UNTRUE = re.compile(r"pip install (?:-U |--upgrade )?['\"]?codecdiff(?!\S* @)(?!-\w+\[)")


@pytest.mark.parametrize(
    "file",
    [*PAGES, *ROOT.glob("codecdiff/**/*.py"), *ROOT.glob("plugins/*/codecdiff_*/**/*.py")],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_nothing_says_that_our_packages_are_on_pypi(file: Path):
    """`pip install codecdiff-dac` would install what a stranger registers; extras of installed packages are right."""
    assert not [line for line in file.read_text(encoding="utf-8").splitlines() if UNTRUE.search(line)]


@pytest.mark.parametrize(
    ("line", "is_untrue"),
    [
        ("pip install codecdiff", True),
        ("pip install 'codecdiff-dac'", True),
        ("pip install --upgrade codecdiff", True),
        ("pip install -e plugins/codecdiff-dac", False),
        ("pip install 'codecdiff-dac @ git+URL'", False),
        ("pip install 'codecdiff-eval[adherence]'", False),
    ],
)
def test_such_lines_are_found(line: str, is_untrue: bool):
    assert bool(UNTRUE.search(line)) == is_untrue


def test_the_figures_of_results_can_be_drawn_from_its_tables():
    drawing = runpy.run_path(str(ROOT / "docs" / "images" / "results.py"))
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    variants, rows = drawing["read_table"](page, "Patterns", "Figures")
    assert variants == ["coarse-first", "parallel", "three-stages", "delayed"]
    assert rows["cascade gap"] == [(9.27, 1.77, 17.5), None, (13.0, 5.54, 23.9), None]
    assert drawing["parse"]("−1.68 (−7.89 to 4.25): no difference shown") == (-1.68, -7.89, 4.25)


@pytest.mark.parametrize("name", ["starter", "paper"])
def test_configurations_can_be_read(name: str, experiment: Any):
    read = config.load_config(experiment, ROOT / "recipes" / "configs" / f"{name}.yaml")
    for kind in ("codec", "splitter", "conditioner", "denoiser"):
        config.check_spec(f"{kind}s", getattr(read, kind))


def test_the_figures_of_other_pages_can_be_drawn_from_their_tables():
    read_table = runpy.run_path(str(ROOT / "docs" / "images" / "tables.py"))["read_table"]
    clips, schedulers = read_table("scores.md", "clips in each"), read_table("configuration.md", "scheduler")
    assert [row[:2] for row in clips] == [["clips in each", "5"], ["FAD", "66.1"], ["KAD-across-clips", "0.43"]]
    assert {len(row) for row in schedulers} == {6}
    assert schedulers[1][:1] + schedulers[1][3:5] == ["`ddpm`", "0.074", "0.12"]


def test_the_gallery_has_prompts_of_every_shipped_model():
    gallery = runpy.run_path(str(ROOT / "docs" / "gallery.py"))
    assert gallery["shipped_models"]() == sorted(gallery["PROMPTS"])
    for prompts in gallery["PROMPTS"].values():
        assert len(prompts) == len(set(prompts.values())) == 6


@pytest.mark.integration
def test_clips_of_the_gallery_play_and_can_be_generated_again():
    gallery = runpy.run_path(str(ROOT / "docs" / "gallery.py"))
    (clip,) = gallery["generate"]("starter", 1.0, 1)
    samples, rate = soundfile.read(io.BytesIO(clip.audio))
    again = Pipeline.from_pretrained("starter")(clip.prompt, audio_length_in_s=1.0, seed=clip.seed)
    assert (rate, len(samples)) == (again.sampling_rate, again.audios.shape[-1])
    expected = again.audios[0].mean(0).numpy()
    assert np.corrcoef(samples, expected)[0, 1] > 0.9  # Vorbis keeps the music, not every sample
    assert len(clip.audio) < 20_000
    shown = gallery["section"]("starter", (clip,))
    assert f'src="{gallery["file_name"]("starter", clip)}"' in shown
    assert f'aria-label="{clip.prompt}"' in shown
    line = next(line for line in shown.splitlines() if line.startswith("codecdiff "))
    assert all(word in help_of("generate") for word in shlex.split(line) if word.startswith("--"))
