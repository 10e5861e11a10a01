"""The program that puts an engine under load works, with its smallest settings."""

import pytest

from tests.app.engine_load import main


@pytest.mark.timeout(120)
def test_a_short_day(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--users=3", "--seconds=0.2", "--requests=8", "--random=8", "--cancels=2"]
    code = main(settings)
    output = capsys.readouterr().out
    assert code == 0, output
    assert output.count("\n") == 7
