"""The export stage: first run, second run, other options, on S3, and after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
import pytest

import raypipe
from raypipe import tables
from raypipe.cli import main
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import InputError, StageError
from raypipe.storage import Storage
from tests.export.conftest import Made, build, image_row, write_images, write_labels
from tests.export.test_tar import read

FORMATS = ["webdataset", "folder", "hf"]
KILLED = """
import sys
from tests.kill_program import arm
from raypipe.cli import main
arm(int(sys.argv[1]), sys.argv[2])
sys.exit(main(["export", *sys.argv[3:]]))
"""


def files(folder: Path) -> dict[str, bytes]:
    """All files of an export except its record."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found.pop("_run.json")
    return found


def killed(config: Config, step: int, when: str) -> int:
    """Run the command in a process that SIGKILLs itself at one change of the storage. Returns the exit code."""
    words = ["--root", config.root, "--format", config.export.format, "--export.shard_mb", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED, str(step), when, *words]
    return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, timeout=120).returncode


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("kind", ["class", None])
def test_counts_account_for_each_row(make: Callable[..., Made], format_: str, kind: str | None) -> None:
    made = make(kind)
    record = raypipe.export(made.exporting(format_))
    assert record.table == f"export/{format_}"
    assert (record.rows_in, record.rows_out, record.dropped) == (made.rows_in, len(made.rows), made.dropped)
    splits = ("train", "val", "test") if kind else ("train",)
    assert record.facts["splits"] == {name: len(made.split(name)) for name in splits}
    assert record.facts["labels"] == kind
    assert set(record.inputs) == ({"images", "labels"} if kind else {"images"})


@pytest.mark.parametrize("format_", FORMATS)
def test_second_export_does_nothing(make: Callable[..., Made], format_: str) -> None:
    made = make()
    config = made.exporting(format_)
    record = raypipe.export(config)
    before = {p: p.stat().st_mtime_ns for p in made.folder(format_).rglob("*")}
    assert raypipe.export(config) == record
    assert raypipe.export(made.exporting(format_, name=format_)) == record
    assert {p: p.stat().st_mtime_ns for p in made.folder(format_).rglob("*")} == before


def test_other_options_or_labels_need_overwrite(make: Callable[..., Made]) -> None:
    made = make()
    raypipe.export(made.exporting("webdataset", name="x"))
    with pytest.raises(StageError, match=r"export/x: .*export\.shard_mb was 256, is 5; use --overwrite"):
        raypipe.export(made.exporting("webdataset", name="x", shard_mb=5))
    with pytest.raises(StageError, match=r"export\.format was 'webdataset', is 'hf'"):
        raypipe.export(made.exporting("hf", name="x"))
    raypipe.export(made.exporting("folder", name="x", overwrite=True))
    assert {name.split("/")[0] for name in files(made.folder("x"))} == {"classes.json", "train", "val", "test"}
    assert (made.folder("x") / "train" / "bottom").is_dir()
    write_labels(made.config, [{"post_id": "ab", "label": "new", "split": "train"}])
    with pytest.raises(StageError, match="input labels has changed"):
        raypipe.export(made.exporting("folder", name="x"))
    raypipe.export(made.exporting("folder", name="x", overwrite=True))
    # torchvision refuses a class folder without pictures, so no empty one may remain.
    assert sorted(str(p.relative_to(made.folder("x"))) for p in made.folder("x").rglob("*") if p.is_dir()) == [
        "train",
        "train/new",
    ]


def test_failed_export_gives_one_line_and_no_files(config: Config) -> None:
    def refused(kind: type[Exception], message: str, **options: object) -> None:
        with pytest.raises(kind, match=message):
            raypipe.export(load_config(root=config.root, export=options))
        assert not (Path(config.root) / "export").exists() or not any((Path(config.root) / "export").iterdir())

    refused(StageError, "images: does not exist; run `raypipe ingest ")
    write_images(config, [], files=1)
    refused(InputError, "images: has no rows")
    write_images(config, [image_row("a", None, status="gone")])
    refused(InputError, "no picture to export: 1 gone")
    write_images(config, [image_row("a", b"x"), image_row("b", b"y")])
    # Unfinished labels are not treated as missing labels.
    with tables.begin(config.open_storage(), "labels", command="label", config={}, inputs={}):
        refused(StageError, "labels: is unfinished; run `raypipe label ")


@pytest.mark.parametrize("words", [["--format", "folder"], ["--export.format=folder"], ["--format=folder"]])
def test_command_line_exports_folder(
    make: Callable[..., Made], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    made = make()
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["export", "--root", made.config.root, *words]) == 0
        said = capsys.readouterr().out
        assert "73 pictures (40 train, 18 val, 15 test); left out: 3 gone, 1 no_bytes, 1 no_label, " in said
        assert main(["export", "--root", made.config.root, *words]) == 0
        assert "nothing to do" in capsys.readouterr().out
        assert main(["export", "--root", made.config.root, "--format", "zip"]) == 2
        assert "export.format: 'zip' is not allowed" in capsys.readouterr().err
    finally:
        signal.signal(signal.SIGTERM, before)


def test_format_is_short_for_export_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "--format", "folder"]) == 2
    assert "--format: unknown option" in capsys.readouterr().err
    assert main(["export", "--formt", "folder"]) == 2
    assert "--formt: unknown option; did you mean --format?" in capsys.readouterr().err
    assert main(["export", "--help"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "--export.format" in line)
    assert line.endswith("(webdataset|folder|hf|model); short form: --format [webdataset]")


@pytest.mark.parametrize(("format_", "step", "when"), [("webdataset", 4, "during"), ("folder", 30, "after")])
def test_rerun_completes_killed_export(
    make: Callable[..., Made], format_: str, step: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(side=250, formats=("jpg", "png"))
    wanted = made.exporting(format_, shard_mb=1)
    raypipe.export(made.exporting(format_, name="undisturbed", shard_mb=1))
    assert killed(wanted, step, when) == -signal.SIGKILL
    assert tables.find_record(wanted.open_storage(), f"export/{format_}") is None
    staged = [p for p in made.folder(format_).rglob("_staging/*/**/*") if p.is_file() and p.suffix != ".tmp"]
    assert len(staged) >= 2
    written: list[str] = []
    write = Storage.write

    def spy(self: Storage, path: str, data: bytes | memoryview) -> None:
        written.append(path.rsplit("/", 1)[-1])
        write(self, path, data)

    monkeypatch.setattr(Storage, "write", spy)
    record = raypipe.export(wanted)
    assert (record.rows_out, record.dropped) == (len(made.rows), made.dropped)
    assert files(made.folder(format_)) == files(made.folder("undisturbed"))
    pictures = {p.name for p in staged if p.suffix in (".tar", ".jpg", ".png")}
    assert pictures
    assert not pictures & set(written), "what was staged is not written again"
    assert sorted(files(made.folder(format_))) == sorted(f.path for f in record.files)


@pytest.mark.cluster
@pytest.mark.timeout(900)
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("when", ["during", "after"])
def test_rerun_completes_export_killed_at_every_step(make: Callable[..., Made], format_: str, when: str) -> None:
    made = make(side=200, n=10, formats=("jpg", "png"))
    wanted = made.exporting(format_, shard_mb=1)
    raypipe.export(made.exporting(format_, name="undisturbed", shard_mb=1))
    expected = files(made.folder("undisturbed"))
    # The folder format has one step per picture, all alike, so only some are tested.
    first, stride = (("during", "after").index(when), 3) if format_ == "folder" else (0, 1)
    for step in range(first, 200, stride):
        storage = wanted.open_storage()
        storage.delete_directory(f"export/{format_}")
        code = killed(wanted, step, when)
        if code == 0:
            assert step > 10
            break
        assert code == -signal.SIGKILL
        record = raypipe.export(wanted)
        assert record.rows_out == len(made.rows)
        assert files(made.folder(format_)) == expected
        assert sorted(expected) == sorted(f.path for f in record.files)
    assert code == 0
    assert files(made.folder(format_)) == expected


def test_export_on_s3_equals_local(make: Callable[..., Made], s3_endpoint: str, tmp_path: Path) -> None:
    remote = {"endpoint": s3_endpoint, "region": "us-east-1"}
    there, here = build(load_config(root="s3://bucket/export-root", storage=remote), "class"), make()
    storage = there.config.open_storage()
    for format_ in FORMATS:
        record = raypipe.export(there.exporting(format_))
        assert record.dropped == there.dropped
        assert raypipe.export(there.exporting(format_)).run_id == record.run_id
        raypipe.export(here.exporting(format_))
        copy = tmp_path / "copy" / format_
        copy.mkdir(parents=True)
        pafs.copy_files(
            storage.path(f"export/{format_}"),
            str(copy),
            source_filesystem=storage.filesystem,
            destination_filesystem=pafs.LocalFileSystem(),
        )
        assert files(copy) == files(here.folder(format_))
    assert len(read(tmp_path / "copy" / "webdataset", "train")) == len(there.split("train"))
    assert not [name for name in storage.files("export") if "_staging" in name or "_claim" in name]
