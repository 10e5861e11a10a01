"""The program that puts an engine under load works, with its smallest settings."""

import pytest

from tests.app.engine_load import main


@pytest.mark.timeout(120)
def test_a_short_day(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--users=4", "--seconds=0.5", "--requests=12", "--random=20", "--cancels=3"]
    code = main(settings)
    output = capsys.readouterr().out
    assert code == 0, output
    assert output.count("\n") == 7
