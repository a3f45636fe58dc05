"""Two attempts at one task never write at the same time, wherever they run."""

from __future__ import annotations

import threading
import time

import pytest

from latf_sampling.core import lease
from latf_sampling.core.lease import Lease, Superseded, remove_leases
from latf_sampling.errors import StoreError


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    for name in ("INTERVAL", "VISIBLE_AFTER"):
        monkeypatch.setattr(lease, name, 0.05)


def test_an_attempt_ends_when_the_next_one_is_granted_which_waits_for_it(tmp_path):
    stem, order = tmp_path / "running" / "walker-00", []
    first = Lease.grant(stem)

    def work(attempt: Lease, name: str) -> None:
        try:
            with attempt.held() as report:
                order.append(f"{name} begins")
                for _ in range(400):
                    report(0.3, "on its way")
                    time.sleep(0.01)
        except Superseded:
            order.append(f"{name} ends")

    thread = threading.Thread(target=work, args=(first, "first"))
    thread.start()
    while first.progress() is None:
        time.sleep(0.01)
    assert first.progress()["fraction"] == 0.3 and first.progress()["words"] == "on its way"
    remove_leases(stem.parent)
    assert stem.parent.exists()  # a task in it still runs
    second = Lease.grant(stem)
    assert second.progress() is None  # what the first one reported is not its own
    with second.held() as report:
        assert order == ["first begins", "first ends"]
        report(1.0)
        assert not first.is_valid() and second.progress()["fraction"] == 1.0
        first.revoke()  # which is not the one that may run
        report(1.0)
        second.revoke()
        with pytest.raises(Superseded):
            report(1.0)
    thread.join()
    with pytest.raises(Superseded), first.held():
        pass
    remove_leases(stem.parent)
    assert not stem.parent.exists()


def test_an_attempt_that_does_not_end_is_not_waited_for_without_limit(tmp_path, monkeypatch):
    """As one that was stopped while it held the lock, on a node that nobody can reach."""
    monkeypatch.setattr(lease, "LONGEST_WAIT", 0.2)
    first = Lease.grant(tmp_path / "task")
    with first.held() as report:
        report(0.1)
        second = Lease.grant(tmp_path / "task")
        with pytest.raises(Superseded, match="an earlier attempt that still runs on .*, process "), second.held():
            pass


def test_a_worker_without_the_directory_says_so(tmp_path):
    words = "task.owner: is not there on .*; workers need the directory"
    with pytest.raises(StoreError, match=words), Lease(tmp_path / "nowhere" / "task", "token").held():
        pass
