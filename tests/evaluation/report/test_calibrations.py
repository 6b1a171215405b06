"""Table 1 from a calibration, from the record of its command, and from both."""

from dataclasses import asdict

import pytest

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.calibration_report import table1
from softdecode.evaluation.report.calibrations import calibration_table, read_fits
from softdecode.evaluation.report.inputs import find_sources
from softdecode.statistics import TokenStatistics


def statistics(top1):
    return TokenStatistics(
        **{"tokens": 9, "top1": top1, "top2": 0.1, "top1_p95": 0.9, "entropy": 0.4, "entropy_p95": 0.8},
        **{"tail_entropy": 0.5, "otsu_rank": 2, "otsu_threshold": 0.1, "head_mass": 0.3, "code_norm": 0.7},
        profile=(top1, 0.1, 0.05),
    )


FITTED = Calibration(
    kappa=30.0,
    epsilon=0.01,
    target=statistics(0.22),
    raw=statistics(0.001),
    reached=statistics(0.23),
    protocol={"draws": 100, "encodes": 512, "seed": 3, "sampling": {"temperature": 1.0}, "prompts": ["a", "b"]},
)


def file_of(calibration):
    return {"format": "softdecode-calibration-1", **asdict(calibration)}


def record_of(calibration):
    fitted = {"kappa": calibration.kappa, "epsilon": calibration.epsilon}
    return {"command": "calibrate", "calibration": fitted, "table1": table1(calibration), "protocol": {}}


def test_a_calibration_is_table_1_with_its_protocol(write):
    (fit,), warnings = read_fits(find_sources([write("calibration.json", file_of(FITTED))]))
    table = calibration_table(fit)
    assert table.number == 1
    assert table.rows == table1(FITTED)
    assert table.caption == (
        "kappa 30, epsilon 0.01; 100 images drawn; 512 pictures encoded; sampling: temperature 1.0; seed 3; input [1]"
    )
    assert "prompts" not in table.protocol
    assert fit.calibration == FITTED
    assert warnings == []
    assert "0.22" in table.markdown()


def test_the_record_of_the_command_does_where_the_file_is_not_there(write):
    (fit,), _ = read_fits(find_sources([write("result.json", record_of(FITTED))]))
    assert calibration_table(fit).rows == table1(FITTED)
    assert fit.calibration is None


def test_file_and_record_of_one_fit_count_once(write):
    paths = [write("result.json", record_of(FITTED)), write("calibration.json", file_of(FITTED))]
    (fit,), _ = read_fits(find_sources(paths))
    assert fit.source.number == 2, "the file has the profiles, too"


def test_fits_that_differ_are_two(write):
    other = Calibration(**{**vars(FITTED), "reached": statistics(0.3)})
    paths = [write("result.json", record_of(other)), write("calibration.json", file_of(FITTED))]
    fits, _ = read_fits(find_sources(paths))
    assert [fit.source.number for fit in fits] == [1, 2]


def test_a_calibration_set_by_hand_is_said_to_have_nothing_to_show(write):
    fits, warnings = read_fits(find_sources([write("calibration.json", file_of(Calibration(kappa=3.0)))]))
    assert fits == []
    assert len(warnings) == 1
    assert "set by hand" in warnings[0]


@pytest.mark.parametrize(
    "change", [{"table1": []}, {"table1": [{}]}, {"table1": None}, {"calibration": {}}, {"calibration": None}]
)
def test_a_broken_record_is_refused(write, change):
    sources = find_sources([write("result.json", record_of(FITTED) | change)])
    with pytest.raises(SoftDecodeError, match=r"result\.json is not a whole result of `calibrate`"):
        read_fits(sources)


def test_a_broken_file_is_refused(write):
    sources = find_sources([write("calibration.json", {"format": "softdecode-calibration-1", "kappa": 1.0})])
    with pytest.raises(SoftDecodeError, match="not a whole calibration file"):
        read_fits(sources)


def test_a_fit_to_stated_statistics_is_no_table_but_no_error_either(write):
    stated = Calibration(**{**vars(FITTED), "target": None})
    record = {"command": "calibrate", "calibration": {"kappa": 30.0}, "reached": {"top1": 0.23}, "protocol": {}}
    paths = [write("calibration.json", file_of(stated)), write("result.json", record)]
    fits, warnings = read_fits(find_sources(paths))
    assert fits == []
    assert [warning.partition(" was ")[2] for warning in warnings] == [
        "fitted to stated statistics, so that Table 1 has no VLM to show"
    ] * 2
