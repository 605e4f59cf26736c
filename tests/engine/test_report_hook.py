"""The report hook: its pages, what it leaves alone, and what it survives."""

from __future__ import annotations

from pathlib import Path

import pytest
from exact_runs import differing_bytes, make_images, run_config, train
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from saim_mm.engine import ReportHook
from saim_mm.engine.report_hook import PAGE
from saim_mm.visualization import LiveReport, report

HOOK = dict(type="ReportHook")
REFRESH = 'http-equiv="refresh"'


@HOOKS.register_module(force=True)
class Reader(Hook):
    """Keeps what the page says after each step, before the next one."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.pages: list[str] = []

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        self.pages.append(Path(runner.work_dir, PAGE).read_text())


def config(images: str, work_dir: Path, *hooks: dict, **options):
    cfg = run_config(images, work_dir, loop="ExactIterLoop", length=6, **options)
    cfg.custom_hooks += list(hooks)
    return cfg


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_images(tmp_path_factory.mktemp("images"), 10)


@pytest.mark.slow
def test_it_changes_no_bit_also_of_a_resumed_run(
    images: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(LiveReport, "pause", lambda page: 0.0)  # after every step
    plain = train(config(images, tmp_path / "plain"))
    watched = train(
        config(
            images, tmp_path / "watched", HOOK, dict(type="Reader"), points=["iter_3"]
        )
    )
    assert differing_bytes(watched["state"], plain["state"]) == 0
    assert differing_bytes(watched["rows"], plain["rows"]) == 0
    pages = watched["runner"]._hooks[-1].pages
    assert len(pages) == 6
    for number, page in enumerate(pages[:-1], 1):
        assert f"Running; iteration {number} of 6" in page
        assert REFRESH in page

    checkpoint = tmp_path / "watched" / "iter_3.pth"
    resumed = train(config(images, tmp_path / "watched", HOOK), checkpoint)
    assert differing_bytes(resumed["state"], plain["state"]) == 0
    page = (tmp_path / "watched" / PAGE).read_text()
    assert "Finished; iteration 6 of 6" in page and REFRESH not in page
    assert "2 starts" in page and ">4 to 6<" in page


@HOOKS.register_module(force=True)
class Breaks(Hook):
    """Puts something in the page's way."""

    def before_train(self, runner: Runner) -> None:
        Path(runner.work_dir, PAGE).mkdir()


@pytest.mark.slow
def test_a_page_that_cannot_be_written_loses_no_run(
    images: str, tmp_path: Path
) -> None:
    result = train(config(images, tmp_path, dict(type="Breaks"), HOOK))
    assert len(result["rows"]) == 6
    assert list((tmp_path / PAGE).iterdir()) == []


def test_a_fault_of_the_page_loses_no_run(monkeypatch) -> None:
    def write(self, last: bool = False) -> bool:
        raise RuntimeError("a fault")

    class FakeRunner:
        work_dir = "run"
        told: list[str] = []

        def warning(self, text: str) -> None:
            self.told.append(text)

    runner = FakeRunner()
    runner.logger = runner
    monkeypatch.setattr(LiveReport, "write", write)
    hook = ReportHook()
    hook.before_train(runner)
    hook.after_train_iter(runner)
    hook.after_run(runner)
    assert runner.told == [
        "run/report.html is no longer written: RuntimeError('a fault')"
    ]


def test_a_test_writes_no_page(monkeypatch) -> None:
    monkeypatch.setattr(LiveReport, "write", None)
    ReportHook().after_run(None)


def test_writing_takes_its_share_and_no_more(monkeypatch, tmp_path: Path) -> None:
    """A page takes 3 s, of which 2 % are allowed, and an iteration 1 s."""
    now, written = 0.0, []

    def write_page(runs, path, refresh) -> None:
        nonlocal now
        written.append(now)
        now += 3

    monkeypatch.setattr(report, "write_page", write_page)
    monkeypatch.setattr(report.time, "monotonic", lambda: now)
    page = LiveReport([tmp_path], tmp_path / PAGE, interval=10, max_share=0.02)
    for _ in range(1000):
        now += 1
        if not page.pause():
            page.write()
    assert written[0] == 1
    gaps = {after - before for before, after in zip(written, written[1:], strict=False)}
    assert len(written) == 7 and gaps == {3 + 150}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(interval=0), "interval=0"),
        (dict(interval=float("nan")), "interval=nan"),
        (dict(max_share=0), "max_share=0"),
        (dict(max_share=1.1), "max_share=1.1"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReportHook(**options)
