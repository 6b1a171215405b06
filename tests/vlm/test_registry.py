"""The registry: families of other packages, and ours, by the model type of a config."""

import json
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from softdecode.errors import SoftDecodeError
from softdecode.vlm import registry
from softdecode.vlm.registry import families, load_vlm


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "foreign"}))
    return tmp_path


@pytest.fixture
def installed(monkeypatch):
    """Packages with these entry points are installed."""

    def install(**points):
        found = [EntryPoint(name=name, value=value, group="softdecode.vlm") for name, value in points.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "softdecode.vlm" else [])

    return install


def test_a_family_of_another_package_loads(folder, installed, monkeypatch):
    class Foreign:
        @staticmethod
        def from_pretrained(location, **settings):
            return location, settings

    module = ModuleType("foreign_package")
    module.Foreign = Foreign
    monkeypatch.setitem(sys.modules, "foreign_package", module)
    installed(foreign="foreign_package:Foreign")
    location, settings = load_vlm(folder, revision="main", device="cpu")
    assert location == folder
    assert settings.keys() == {"revision", "device", "dtype"}


def test_our_own_families_cannot_be_replaced(installed):
    installed(janus="foreign_package:Foreign", other="foreign_package:Foreign")
    assert families()["janus"] == registry.FAMILIES["janus"]
    assert families()["other"] == "foreign_package:Foreign"


def test_an_unknown_family_is_refused_with_those_that_are_known(folder, installed):
    installed(other="foreign_package:Foreign")
    with pytest.raises(
        SoftDecodeError,
        match=r"'foreign' model; softdecode knows chameleon, emu3, janus, llamagen, multi_modality, other",
    ):
        load_vlm(folder)


@pytest.mark.parametrize("value", ["no_such_package:Foreign", "json:Foreign"])
def test_a_family_that_cannot_be_imported_is_named(value, folder, installed):
    installed(foreign=value)
    with pytest.raises(SoftDecodeError, match=f"'foreign' names {value}, which fails"):
        load_vlm(folder)


@pytest.mark.parametrize("value", registry.FAMILIES.values())
def test_our_own_families_can_be_imported(value):
    module, _, name = value.partition(":")
    assert hasattr(getattr(__import__(module, fromlist=[name]), name), "from_pretrained")
