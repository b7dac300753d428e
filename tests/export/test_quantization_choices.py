"""Which products stay fp32, when a processor is not trusted, and what the command's flags mean."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from headwaiter_export.progress import Silent
from headwaiter_export.quantization.bounds import Bounds, Wishes
from headwaiter_export.quantization.command import int8_options
from headwaiter_export.quantization.judge import Quality
from headwaiter_export.quantization.products import Product, Site
from headwaiter_export.quantization.rewrite import Plan
from headwaiter_export.quantization.selection import Plans, choose, worthwhile
from headwaiter_export.quantization.vnni import lacks_vnni

pytestmark = pytest.mark.torch


def test_every_wish_has_a_flag() -> None:
    """Flags become wishes; without --int8 there are none; the defaults are those of `Bounds`."""
    seen: list[Wishes | None] = []

    def take(int8: Wishes | None) -> None:
        seen.append(int8)

    command = click.command()(int8_options(take))
    flags = "--int8-mean-cosine .1 --int8-worst-cosine .2 --int8-agreement .3 --int8-batch-difference .4"
    for arguments in (
        [],
        ["--int8"],
        [*flags.split(), "--int8-speedup", ".5", "--int8", "--int8-weight-bits", "7", "--int8-texts", "t.txt"],
    ):
        assert CliRunner().invoke(command, arguments).exit_code == 0
    assert seen == [None, Wishes(), Wishes(Bounds(0.1, 0.2, 0.3, 0.4, 0.5), 7, Path("t.txt"))]
    assert CliRunner().invoke(command, ["--int8-weight-bits", "4"]).exit_code == 2
    useless = CliRunner().invoke(command, ["--int8-agreement", "0.9"])
    assert useless.exit_code == 2
    assert "--int8-agreement has no effect without --int8" in useless.stderr


def _site(name: str, size: int) -> Site:
    return Site(name, (Product(f"{name}_out", name, name, (size, size), transposed=False),))


def test_what_hurts_most_for_its_work_stays_fp32() -> None:
    """One bad site is taken back, and with it the bounds are met; harmless ones stay int8."""
    sites = [_site(name, 8) for name in "abcdef"]
    harm = dict(zip(sites, (0.0, 0.001, 0.05, 0.0, 0.002, 0.0), strict=True))

    def judge(plans: Plans) -> Quality:
        return Quality(1 - sum(harm[site] for site in plans), 1.0, 1.0)

    plans, work = {site: Plan() for site in sites}, {site: site.work for site in sites}
    choice = choose(plans, work, Bounds(mean_cosine=0.99), judge, Silent())
    assert [site.input for site in plans if site not in choice.plans] == ["c"]
    # Out of reach: no more than a quarter of the work is given away for it.
    choice = choose(plans, work, Bounds(mean_cosine=0.9999), judge, Silent())
    assert [site.input for site in plans if site not in choice.plans] == ["c"]
    # Good enough: nothing is given away.
    assert choose(plans, work, Bounds(mean_cosine=0.9), judge, Silent()).plans == plans


def test_small_products_stay_fp32() -> None:
    """What takes next to none of the work is not worth the loss."""
    large, small = _site("large", 64), _site("small", 2)
    assert worthwhile({large: large.work * 1000, small: small.work}) == {large}


def test_vnni_is_told_by_the_processor(tmp_path: Path) -> None:
    """Only x86 lacks it; what cannot be read is not trusted."""
    info = tmp_path / "cpuinfo"
    info.write_text("flags\t\t: fpu sse2 avx2\n")
    assert lacks_vnni("x86_64", info)
    assert lacks_vnni("x86_64", tmp_path / "none")
    assert not lacks_vnni("aarch64", info)
    info.write_text("flags\t\t: fpu avx2 avx_vnni\n")
    assert not lacks_vnni("x86_64", info)
