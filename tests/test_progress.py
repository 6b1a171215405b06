"""Progress bars on standard error."""

from softdecode.progress import Bars


def test_there_is_a_bar_for_each_stage_and_nothing_is_left_of_it(capsys):
    bars = Bars(quiet=False)
    for stage, done in (("VLM tokens", 1), ("VLM tokens", 2), ("denoising", 1), ("denoising", 2), ("denoising", 1)):
        bars(stage, done, 2)
    bars.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("VLM tokens:   0%") == 1
    assert err.count("denoising:   0%") == 2, "the second batch has a bar of its own"
    assert err.split("\r")[-1].strip() == ""


def test_quiet_bars_say_nothing(capsys):
    bars = Bars(quiet=True)
    bars("VLM tokens", 1, 2)
    bars.close()
    assert capsys.readouterr() == ("", "")
