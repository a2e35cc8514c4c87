"""A table of pictures and labels as a source."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastcifar.data.images import Source
from fastcifar.data.sources import open_source
from fastcifar.errors import ConfigError
from tests.data.cifar_files import refusal, write_picture

pytestmark = pytest.mark.usefixtures("no_source_variable")

ROWS = [("a.png", "dog"), ("sub/b.png", "cat"), ("c.png", "dog"), ("d.png", "cat"), ("e.png", "dog"), ("f.png", "cat")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the pictures of `ROWS`, each with its own red: 0, 10 and so on."""
    for index, (name, _) in enumerate(ROWS):
        write_picture(tmp_path / name, 10 * index)
    return tmp_path


def write_table(folder: Path, header: str, rows: list[str], encoding: str = "utf-8") -> Path:
    table = folder / "labels.csv"
    table.write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
    return table


def _reds(source: Source) -> tuple[list[int], list[int]]:
    """The reds of the training images and of the test images."""
    train, test = ([int(image[0, 0, 0]) for image in split.images] for split in (source.train, source.test))
    return train, test


def test_the_split_column_makes_the_splits_in_the_order_of_the_rows(folder: Path) -> None:
    splits = ["train", "Training", "test", "train", "TEST", "train"]
    rows = [f"{name},{label},{split}" for (name, label), split in zip(ROWS, splits, strict=True)]
    opened = open_source(write_table(folder, "filename,label,split", rows))
    assert opened.class_names == ("cat", "dog")
    assert _reds(opened) == ([0, 10, 30, 50], [20, 40])
    assert [list(split.labels) for split in (opened.train, opened.test)] == [[1, 0, 0, 0], [1, 1]]
    with pytest.raises(ConfigError, match="test_fraction"):
        open_source(folder / "labels.csv", test_fraction=0.5)


@pytest.mark.parametrize(
    ("delimiter", "encoding", "header"),
    [(",", "utf-8", "Path{}Class"), (";", "utf-8-sig", "id{}image{}target"), ("\t", "utf-8", "category{}file_name")],
)
def test_delimiters_columns_and_encodings(folder: Path, delimiter: str, encoding: str, header: str) -> None:
    columns = header.format(delimiter, delimiter).lower().split(delimiter)
    rows = []
    for index, (name, label) in enumerate(ROWS):
        path = str(folder / name) if index == 0 else f'"{name}"'
        cells = {"id": str(index), "class": label, "target": label, "category": label}
        rows.append(delimiter.join(cells.get(column, path) for column in columns))
    rows.insert(2, "")
    rows.append(delimiter * (len(columns) - 1))
    write_table(folder, header.format(delimiter, delimiter), rows, encoding)
    opened = open_source(folder, test_fraction=0.34)  # a folder without other formats
    assert sorted([*_reds(opened)[0], *_reds(opened)[1]]) == [0, 10, 20, 30, 40, 50]
    assert opened.name == "csv"
    assert opened.class_names == ("cat", "dog")


def test_numbers_as_labels_are_sorted_as_numbers(folder: Path) -> None:
    rows = [f"{name},{number}" for (name, _), number in zip(ROWS, (10, 9, 10, 9, 100, 9), strict=True)]
    assert open_source(write_table(folder, "path,label", rows)).class_names == ("9", "10", "100")


def test_validation_rows_are_the_test_where_there_is_none(folder: Path) -> None:
    splits = ["train", "train", "val", "train", "valid", "train"]
    rows = [f"{name},{label},{split}" for (name, label), split in zip(ROWS, splits, strict=True)]
    opened = open_source(write_table(folder, "path,label,split", rows))
    assert _reds(opened)[1] == [20, 40]
    assert "the 2 validation rows become test.beton" in opened.notes[0]
    rows[3] = rows[3].replace("train", "test")
    opened = open_source(write_table(folder, "path,label,split", rows))
    assert _reds(opened) == ([0, 10, 50], [30])
    assert "2 validation rows passed over" in opened.notes[0]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("path,label", "none.png,dog", "row 8: there is no picture .*none.png .1 of 7 pictures are missing"),
        ("path,label", "a.png", "row 8: has 1 columns"),
        ("path,label", ",dog", "row 8: has no picture"),
        ("path,label", "a.png,", "row 8: has no label"),
        ("name,label", "a.png,dog", "the first line must name a column for the pictures"),
    ],
)
def test_an_odd_table_is_refused_with_its_row(folder: Path, header: str, row: str, message: str) -> None:
    table = write_table(folder, header, [*(f"{name},{label}" for name, label in ROWS), row])
    with pytest.raises(Exception, match=message):
        open_source(table, source_format="csv")


def test_an_unknown_split_one_class_and_an_empty_table_are_refused(folder: Path) -> None:
    table = write_table(folder, "path,label,split", ["a.png,dog,trian"])
    assert "row 2: the split is 'trian'; it must be one of train" in refusal(table)
    assert "it must have at least 2 classes" in refusal(write_table(folder, "path,label", ["a.png,dog"]))
    table.write_text("")
    assert "the first line must name" in refusal(table)


def test_tables_beside_a_data_set_do_not_count(folder: Path) -> None:
    write_table(folder, "path,label", ["a.png,dog", "c.png,cat"])
    (folder / "sampleSubmission.csv").write_text("id,label\n1,cat\n")
    for split in ("train", "test"):
        for name, label in ROWS:
            write_picture(folder / split / label / Path(name).name)
    assert open_source(folder).name == "image-folder"
