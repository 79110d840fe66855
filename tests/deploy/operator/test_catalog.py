"""`ecolink catalog` on a store without services, and the migration that seeds the catalog."""

from __future__ import annotations

import pytest

from deploy.migrate import migrate
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import shipped_offers
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID
from domain.use_cases.accounts import EcoLink
from infrastructure.settings import Settings
from tests.builders.commands import command
from tests.builders.examples import REVISION
from tests.builders.tiny_model import TINY_SHAPE
from tests.deploy.operator.command_line import ecolink


def row(output: str, name: str) -> list[str]:
    """The words of the line that starts with a name."""
    (line,) = (line for line in output.splitlines() if line.split()[:1] == [name])
    return line.split()


def offered(log: EventLog) -> Catalog:
    return log.load(Catalog, CATALOG_ID)


def test_a_migrated_database_has_the_shipped_catalog(log: EventLog) -> None:
    shipped = shipped_offers()
    assert tuple(offered(log).gpu_types.values()) == shipped.gpu_types
    assert tuple(offered(log).bases.values()) == shipped.bases


def test_migrating_again_keeps_the_operator_s_changes(settings: Settings, log: EventLog) -> None:
    ecolink("catalog", "gpu-types", "set", "l4", "--price", "0.50")
    ecolink("catalog", "gpu-types", "withdraw", "h100")
    ecolink("catalog", "bases", "withdraw", "phi-4")
    version = offered(log).version
    migrate(settings)
    catalog = offered(log)
    assert catalog.version == version
    assert catalog.gpu_type("l4").micros_per_hour == 500_000
    assert "h100" not in catalog.gpu_types
    assert "phi-4" not in catalog.bases


def test_show_has_prices_capacity_and_bases(log: EventLog) -> None:
    shown = ecolink("catalog", "show")
    assert row(shown, "cpu")[-4:] == ["$0.60", "0.15", "2", "2"]
    assert row(shown, "local") == ["local", "This", "machine"]
    smollm2 = ["smollm2-135m-instruct", "135M", "30", "576", "8192", "yes", "no"]
    assert row(shown, "smollm2-135m-instruct") == smollm2
    with command("import"):
        EcoLink(log).import_base_model("smollm2-135m-instruct", REVISION)
    assert row(ecolink("catalog", "show"), "smollm2-135m-instruct")[-1] == "yes"


def test_a_new_gpu_type_needs_every_field_and_a_change_only_its_own(log: EventLog) -> None:
    missing = ecolink("catalog", "gpu-types", "set", "rtx", "--title", "RTX", exit_code=1)
    assert "--backing, --bf16-tflops, --max-per-job, --price" in missing
    figures = ("--vram-gib", "24", "--price", "0.40", "--bf16-tflops", "165", "--backing", "nvidia")
    names = ("--device-name", "RTX 4090", "--device-name", "RTX 4090 D")
    rest = ("--title", "RTX", "--max-per-job", "2", "--source", "a data sheet")
    ecolink("catalog", "gpu-types", "set", "rtx", *figures, *names, *rest)
    ecolink("catalog", "gpu-types", "set", "rtx", "--price", "0.45")
    rtx = offered(log).gpu_type("rtx")
    assert (rtx.micros_per_hour, rtx.vram_gib, rtx.backing) == (450_000, 24.0, "nvidia")
    assert rtx.device_names == ("RTX 4090", "RTX 4090 D")


def test_capacity_and_regions(log: EventLog) -> None:
    ecolink("catalog", "regions", "set", "oslo", "--title", "Oslo")
    ecolink("catalog", "capacity", "oslo", "l4", "4")
    ecolink("catalog", "regions", "set", "oslo", "--title", "Oslo, Norway")
    assert offered(log).region("oslo").capacity == {"l4": 4}
    assert row(ecolink("catalog", "show"), "l4")[-1] == "4"
    ecolink("catalog", "regions", "withdraw", "oslo")
    assert "oslo" not in offered(log).regions


def test_bases_are_listed_made_eligible_and_delisted(log: EventLog) -> None:
    ecolink("catalog", "bases", "set", "phi-4", "--no-eligible")
    ecolink("catalog", "bases", "set", "phi-4", "--source", "another page")
    phi = offered(log).bases["phi-4"]
    assert (phi.eligible, phi.source) == (False, "another page")
    refused = ecolink("catalog", "bases", "set", "mine", exit_code=1)
    assert "ecolink models import SOURCE --name mine" in refused
    with command("import"):
        EcoLink(log).import_base_model("mine", REVISION)
    ecolink("catalog", "bases", "set", "mine")
    assert offered(log).bases["mine"].shape == TINY_SHAPE
    ecolink("catalog", "bases", "withdraw", "mine")
    assert "mine" not in offered(log).bases


@pytest.mark.full
def test_an_operator_deploys_and_undeploys_an_imported_base(log: EventLog) -> None:
    ecolink("catalog", "bases", "deploy", "phi-4", exit_code=1)
    ecolink("catalog", "bases", "undeploy", "phi-4", exit_code=1)
    with command("import"):
        EcoLink(log).import_base_model("phi-4", REVISION)
    for _ in range(2):
        assert "deploying" in ecolink("catalog", "bases", "deploy", "phi-4")
    assert row(ecolink("catalog", "show"), "phi-4")[-2:] == ["yes", "deploying"]
    assert "is undeployed" in ecolink("catalog", "bases", "undeploy", "phi-4")


def test_a_refused_change_changes_nothing(log: EventLog, subtests: pytest.Subtests) -> None:
    version = offered(log).version
    for arguments, value in (
        (("gpu-types", "withdraw", "cpu"), "cpu"),
        (("gpu-types", "withdraw", "tpu"), "tpu"),
        (("gpu-types", "set", "l4", "--price", "-1"), ""),
        (("gpu-types", "set", "l4", "--vram-gib", "nan"), "vram_gib"),
        (("gpu-types", "set", "l4", "--device-name", "NVIDIA H200"), "h200"),
        (("regions", "withdraw", "moon"), "moon"),
        (("capacity", "moon", "cpu", "1"), "local"),
        (("capacity", "local", "tpu", "1"), "tpu"),
        (("bases", "withdraw", "moon"), "moon"),
    ):
        with subtests.test(" ".join(arguments)):
            assert value in ecolink("catalog", *arguments, exit_code=1)
            assert offered(log).version == version
