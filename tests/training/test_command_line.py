"""Command lines for dataclasses: spellings of options, YAML files, and which setting takes precedence."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.command_line import given, parse


@dataclass(frozen=True)
class Example:
    """An example.

    Attributes:
        batch_size: samples of a step, 100 % of them.
        folder: a place.
        strict: stops early.
        settings: anything.
        milestones: epochs.
    """

    batch_size: int = 3
    folder: Path | None = None
    strict: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    milestones: tuple[int, ...] = ()


def read(*arguments: str, **defaults: Any) -> Example:
    return parse(Example, arguments, description="An example.", defaults=defaults)


def test_without_arguments_the_class_defaults_apply() -> None:
    assert read() == Example()


@pytest.mark.parametrize("arguments", [("--batch-size", "5"), ("--batch_size", "5"), ("--batch_size=5",)])
def test_an_option_may_be_spelled_with_dashes_or_underscores(arguments: tuple[str, ...]) -> None:
    assert read(*arguments).batch_size == 5


def test_the_value_of_an_option_keeps_its_underscores() -> None:
    parsed = read("--folder=a_b", "--settings.kd_weight", "4", "--settings.positives=by_sample")
    assert (parsed.folder, parsed.settings) == (Path("a_b"), {"kd_weight": 4, "positives": "by_sample"})


def test_names_of_settings_get_underscores_in_either_spelling() -> None:
    assert read("--settings.kd-weight", "4", "--settings.ce-weight=1").settings == {"kd_weight": 4, "ce_weight": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--milestones", "3", "5"), ("--milestones", "3,5"), ("--milestones=3", "5"), ("--milestones=[3, 5]",),
        ("--milestones", "[3,", "5]"), ("--milestones", "[3, 5]"), ("--milestones=3,5",),
    ],
)  # fmt: skip
def test_several_values_may_be_separate_arguments_or_one_list(arguments: tuple[str, ...]) -> None:
    assert read(*arguments, "--batch-size", "4") == Example(batch_size=4, milestones=(3, 5))


@pytest.mark.parametrize("arguments", [("--batch", "5"), ("--batchsize", "5"), ("--mile", "3")])
def test_an_abbreviated_or_misspelled_option_is_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read(*arguments)
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "expected"), [(("--strict",), True), (("--strict", "false"), False)])
def test_a_flag_needs_no_value_and_takes_one(arguments: tuple[str, ...], expected: bool) -> None:
    assert read(*arguments, "--batch-size", "4") == Example(batch_size=4, strict=expected)


def test_the_command_line_overrides_the_file_and_the_file_overrides_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("batch_size: 9\nstrict: true\nsettings: {kd_weight: 3, ce_weight: 1}\nmilestones: [3, 4]\n")
    parsed = read("--config", str(file), "--batch-size", "2", "--settings.kd_weight", "5", strict=False, folder=Path("p"))
    assert parsed == Example(2, Path("p"), True, {"kd_weight": 5, "ce_weight": 1}, (3, 4))


def test_the_help_has_a_line_for_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    printed = " ".join(capsys.readouterr().out.split())
    assert "--batch-size" in printed
    assert "samples of a step, 100 % of them." in printed


def test_the_help_lists_the_groups_in_order_and_the_other_options_last(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Example, ["--help"], description="", groups={"where": ("folder",), "what": ("settings", "batch_size", "gone")})
    lines = capsys.readouterr().out.splitlines()
    titles = ("where:", "--folder", "what:", "--settings", "--batch-size", "others:", "--strict")
    places = [next(number for number, line in enumerate(lines) if line.strip().startswith(title)) for title in titles]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--preset", "a"), "a"), (("--preset=a",), "a"), (("--preset", "a", "--preset=b"), "b"), ((), None),
        (("--batch-size", "3"), None), (("--preset",), None),
    ],
)  # fmt: skip
def test_an_option_is_found_without_parsing_the_others(arguments: tuple[str, ...], expected: str | None) -> None:
    assert given(arguments, "preset") == expected


def test_an_option_is_found_in_a_file_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    for name, text in (("a.yaml", "preset: a\nbatch-size: 3\n"), ("b.yaml", "preset: b\n"), ("c.yaml", "batch-size: 5\n")):
        (tmp_path / name).write_text(text)
    files = [f"--config={tmp_path / name}" for name in ("a.yaml", "b.yaml", "c.yaml")]
    assert given(files[:1], "preset") == "a"
    assert given(files, "preset") == "b"
    assert given([*files, "--preset", "c"], "preset") == "c"
    assert given(["--config", "preset: d"], "preset") == "d"
    assert given(["--config", str(tmp_path / "missing.yaml"), "--config", "a: [", "--config", "3"], "preset") is None


@pytest.mark.parametrize("spelling", ["--print-config", "--print_config"])
def test_the_command_reads_the_configuration_that_it_prints(
    spelling: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read("--batch-size", "7", "--milestones", "[1, 2]", spelling)
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["batch_size"] == 7
    (tmp_path / "printed.yaml").write_text(printed)
    assert read("--config", str(tmp_path / "printed.yaml")) == Example(batch_size=7, milestones=(1, 2))


def test_a_file_with_an_unknown_setting_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.yaml").write_text("batchsize: 9\n")
    with pytest.raises(SystemExit):
        read("--config", str(tmp_path / "settings.yaml"))
    assert "batchsize" in capsys.readouterr().err
