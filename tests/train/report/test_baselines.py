"""A text that is gone or another one when a run ends costs the report its baselines."""

import pytest

from lostjax.data import prepare_data
from lostjax.train.report import gather


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_a_finished_run_is_reported_without_its_text(tmp_path, capsys, change):
    path = tmp_path / "text.txt"
    path.write_text("a line of some text, with words\n" * 60)
    cache = tmp_path / "cache"
    data = prepare_data(
        str(path), tokenizer="bytes", seq_len=16, batch_size=4, seed=0, cache_dir=cache
    )
    whole = path.read_bytes()
    path.unlink() if change == "gone" else path.write_bytes(whole.replace(b"a", b"o"))
    assert gather.measure_baselines(data, cache_dir=str(cache)) == {}
    said = capsys.readouterr().err
    assert said.startswith("the report has no text baselines: ") and str(path) in said
    assert said.count("\n") == 1
    assert not [entry for entry in (cache / "baselines").iterdir() if entry.is_file()]
    path.write_bytes(whole)
    capsys.readouterr()
    assert len(gather.measure_baselines(data, cache_dir=str(cache))) == 5
    said = capsys.readouterr().out
    assert said == "measuring text baselines, once for this text: xz and n-grams\n"
    assert len(gather.measure_baselines(data, cache_dir=str(cache))) == 5
    assert not capsys.readouterr().out, "they are kept"
