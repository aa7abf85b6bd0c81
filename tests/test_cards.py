from pathlib import Path

from codecdiff import Pipeline
from codecdiff.pipeline.model_card import render_model_card, write_model_card


def test_a_card_says_what_the_folder_records(make_pipeline, tmp_path: Path) -> None:
    pipeline: Pipeline = make_pipeline(data={"tracks": 6, "hours": 0.5, "license_hours": {"CC0": 0.4, "unknown": 0.1}})
    pipeline.stages[1].facts = {"steps": 1234}
    pipeline.save_pretrained(tmp_path / "model")
    write_model_card(tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: codecdiff\n")
    for fact in (
        "6 tracks, 0.5 hours",
        "CC0 (0.4 hours), unknown (0.1 hours)",
        '"steps": 1234',
        '"name": "coarse-first"',
        "--model model",
    ):
        assert fact in text


def test_what_comes_from_others_is_neither_markdown_nor_html(make_pipeline, tmp_path: Path) -> None:
    hours = {"CC0](https://x) <script>alert(1)</script> **b**\n# Title": 0.4}
    pipeline: Pipeline = make_pipeline(data={"tracks": 6, "hours": 0.5, "license_hours": hours})
    pipeline.stages[1].facts = {"command": "codecdiff train\n```\n# Title", "imported": "a`b`` <img src=x>\n# Title"}
    pipeline.save_pretrained(tmp_path)
    text = render_model_card(tmp_path)
    assert r"CC0\](https://x) \<script\>alert(1)\</script\> \*\*b\*\* # Title (0.4 hours)" in text
    assert "Imported from ``` a`b`` <img src=x> # Title ```." in text
    assert "````\ncodecdiff train\n```\n# Title\n````" in text
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# A codec diffusion model", "# Title"]


def test_a_card_written_by_hand_is_kept(make_pipeline, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path)
    write_model_card(tmp_path)
    write_model_card(tmp_path)  # its own it replaces
    (tmp_path / "README.md").write_text("my own words")
    write_model_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own words"
