"""Distribution of tests over the workers of pytest-xdist."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling

SAMPLE_MODULES = {"test_states.py", "test_budget.py", "test_job_page.py", "test_jobs.py"}
"""Modules that share the sample platform and its browser."""

OWN_STACK = "tests/e2e/test_auto_pause.py"
EXTENSIONS = "test_e2e.py"
"""Name of the end-to-end tests of each extension, which share a stack."""

LONGEST = ("samples", "tests/e2e", OWN_STACK, EXTENSIONS, "tests/browser")
"""Modules that start first, because they take longest."""


class ByModule(LoadScopeScheduling):
    """Run each module on one worker.

    Modules that share a slow fixture also run on one worker: those with the stack, and those with
    the sample platform and its browser.
    """

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        """Mark a test as complete, and forget its module after the last test.

        If a worker crashes, its modules go to other workers. A worker that gets a module without
        open tests reports nothing, and xdist 3.8 then waits for it without end.
        """
        super().mark_test_complete(node, item_index, duration)
        assigned = self.assigned_work[node]
        scope = self._split_scope(self.registered_collections[node][item_index])
        if all(assigned[scope].values()):
            del assigned[scope]

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        folder, _, name = module.rpartition("/")
        if folder == "tests/browser" and name in SAMPLE_MODULES:
            return "samples"
        if name == EXTENSIONS:
            return name
        shares = folder in ("tests/e2e", "tests/browser") and module != OWN_STACK
        return folder if shares else module

    def _assign_work_unit(self, node: Any) -> None:
        for scope in reversed(LONGEST):
            if scope in self.workqueue:
                self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)
