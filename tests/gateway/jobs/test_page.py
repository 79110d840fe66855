"""The page of a job: its notes in each state, and its commands."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from markupsafe import escape
from rich.console import Console

from domain.billing.meter import Meter
from domain.core.aggregate import because
from domain.core.money import Toward, in_cents
from domain.deployments.failures import ADVICE
from domain.jobs.failures import FAILURES, FailureClass
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason, SegmentEnd
from domain.training.checkpoint import checkpoint_model
from gateway.cli import job_progress, job_tables
from gateway.http.errors import NotYetVisible, status_of
from gateway.http.streaming import GOING_AWAY, TOO_SLOW
from gateway.jobs.pages import job_page
from gateway.jobs.pages.wizard.entries import refusal
from gateway.jobs.schemas import JobDetail
from infrastructure.accounts.profiles import set_dataset_name
from infrastructure.postgres.store import connect
from tests.builders.platform import Platform
from tests.gateway.jobs.owners import Reader, notes_in
from tests.gateway.web.signed_in import signed_in

REFUSED = 'class="notice is-problem"'


def run(reader: Reader) -> str:
    """Train and register the job. Return the name of its model."""
    reader.train()
    model = reader.register()
    reader.end(reason=SegmentEnd.COMPLETED)
    reader.platform.project()
    return model


def set_columns(reader: Reader, columns: str, *values: object) -> None:
    """Change columns of the job's row."""
    reader.platform.project()
    with connect(reader.platform.settings) as connection:
        connection.execute(f"UPDATE job_detail SET {columns}", list(values))  # type: ignore[arg-type]


@pytest.mark.parametrize(("threshold", "shown"), [(0.25, "0.25"), (0.0, "of 0.")])
def test_an_early_stop_names_the_threshold_and_the_number_of_evaluations(
    reader: Reader, threshold: float, shown: str
) -> None:
    run(reader)
    chosen = {"early_stopping_patience": 3, "early_stopping_threshold": threshold}
    set_columns(
        reader,
        "planned_steps = 30, total_steps = 20, hyperparameters = hyperparameters || %s::jsonb",
        json.dumps(chosen),
    )
    note = JobDetail.model_validate(reader.read()).stop_note or ""
    assert all(each in note for each in ("3 evaluations", shown))
    assert note in reader.text()


def lose_gpus(reader: Reader) -> None:
    reader.act(Job.lose_capacity)


def crash_before_a_checkpoint(reader: Reader) -> None:
    reader.train(checkpoint=None)
    reader.crash(FailureClass.NODE_LOST)


def run_out_of_memory(reader: Reader) -> None:
    reader.train()
    reader.run_out_of_memory()


def evaluate(reader: Reader) -> None:
    reader.train()
    reader.evaluate()


def score(reader: Reader) -> None:
    evaluate(reader)
    reader.score()


def test_each_state_has_notes(
    client: TestClient, platform: Platform, subtests: pytest.Subtests
) -> None:
    for act, notes, others in (
        (Reader.page, {"waiting-for-gpu", "pause-leaves-queue", "cancel-keeps-nothing"}, ()),
        (Reader.train, {"pause-saves", "cancel-keeps"}, ()),
        (lambda reader: reader.train(checkpoint=None), {"pause-saves", "cancel-saves"}, ()),
        (evaluate, {"evaluating"}, ()),
        (score, {"registering"}, ()),
        (lambda reader: reader.post("pause"), {"paused-owner"}, {"balance-zero"}),
        (lose_gpus, {"paused-capacity"}, {"balance-zero"}),
        (crash_before_a_checkpoint, {"pause-leaves-queue", "cancel-keeps-nothing"}, ()),
        (run_out_of_memory, {"micro-batch-halved"}, ()),
    ):
        with subtests.test(str(notes)):
            reader = Reader(client, platform)
            act(reader)
            shown = reader.notes()
            assert notes <= shown
            assert not shown & set(others)


def test_another_accounts_job_is_not_found(reader: Reader, platform: Platform) -> None:
    signed_in(reader.client, platform.person())
    for path in ("", "/curve", "/log"):
        assert reader.client.get(reader.page_path + path).status_code == 404


def test_the_heading_matches_the_list(reader: Reader, platform: Platform) -> None:
    dataset_id = reader.job.plan.dataset_id
    with connect(platform.settings) as connection:
        set_dataset_name(connection, dataset_id, "chats <1>")
    page = reader.page()
    for shown in (
        f"<h1>chats &lt;1&gt; · {reader.job_id.hex[:8]}</h1>",
        f'<a href="/datasets/{dataset_id}">chats &lt;1&gt;</a>',
        '<a href="/fine-tune">Fine-tuning jobs</a>',
        f'href="/fine-tune/new?like={reader.name}">Duplicate</a>',
        f'href="/fine-tune/compare?jobs={reader.name}">Compare with…</a>',
        'data-copies="job-name"',
        '<span class="badge is-calm is-live">waiting for a GPU</span>',
    ):
        assert shown in page
    text = reader.text()
    for shown in (
        "GPUs 1 × CPU (this machine), $",
        "Region This machine",
        "LoRA r 16",
        "Target modules q_proj, v_proj",
    ):
        assert shown in text


def test_training_shows_steps_losses_cost_and_balance(reader: Reader, platform: Platform) -> None:
    with because(platform.cause):
        platform.log.commit(Meter.open(reader.person.account_id, reader.job_id, 1, 600_000))
    reader.train()
    reader.add_steps(*range(1, 13))
    reader.add_evaluation(10)
    reader.add_lines(1, "loading <the> model")
    text = reader.text()
    for shown in (
        "training",
        "Step 12 of 30",
        "Steps remaining 18",
        "Train loss 1.8800 smoothed 2.8800",
        "Held-out loss 1.7500 at step 10",
        "Tokens/s 1,234",
        "Balance $10.00 lasts about",
        "Estimated up to $0.0",
        "loading <the> model",
    ):
        assert shown in text
    assert reader.topics()[:2] == ["CheckpointSaved", "TrainingStarted"]
    assert 'data-note="cancel-keeps" data-days="30"' in reader.page()
    curve = reader.client.get(reader.page_path + "/curve").json()
    assert curve["steps"] == list(range(1, 13))
    assert (curve["eval_steps"], curve["eval_losses"], curve["last"]) == ([10], [1.75], [1, 12])
    assert (curve["losses"][-1], curve["smoothed"][-1]) == (1.88, 2.88)


def test_memory_of_a_cpu_is_labeled_as_host_memory(reader: Reader) -> None:
    reader.train()
    for gpu_type, is_host in (("cpu", True), ("cpu-small", True), ("l4", False)):
        set_columns(reader, "gpu_type = %s", gpu_type)
        assert ("host-memory" in reader.notes()) is is_host
    assert "GiB predicted" in reader.text()


def test_a_job_past_its_estimate_shows_the_overrun(reader: Reader) -> None:
    reader.train()
    reader.platform.project()
    job = reader.read()
    assert job["overrun"] is None
    assert 'id="overrun"' not in reader.page()
    set_columns(
        reader,
        "billed_seconds = %s, charged_micros = %s, crashes = 1, segment = 2",
        job["estimate"]["high_seconds"] + 60,
        in_cents(job["estimate"]["high"]["micros"], Toward.UP) + 10_000,
    )
    job = reader.read()
    overrun = job["overrun"]
    assert (overrun["seconds"], overrun["cost"]["micros"]) == (60, 10_000)
    assert [each["cause"] for each in overrun["reasons"]] == ["crashes"]
    assert "$0.01 and 60 s" in overrun["sentence"]
    assert overrun["sentence"] in reader.text()
    console = Console(width=200)
    with console.capture() as captured:
        parsed = JobDetail.model_validate(job)
        console.print(job_tables.job(parsed), job_progress.panel(parsed, []))
    assert captured.get().count("$0.01 and 60 s") == 2


def test_a_deleted_log_has_a_note(reader: Reader) -> None:
    run(reader)
    assert "log-deleted" not in reader.notes()
    set_columns(reader, "changed_at = changed_at - interval '91 days'")
    assert "log-deleted" in reader.notes()


def test_steps_lost_in_a_crash_are_not_in_the_curve(reader: Reader) -> None:
    reader.add_steps(*range(1, 8))
    reader.add_steps(6, segment=2)
    for step in (5, 7):
        reader.add_evaluation(step)
    curve = reader.client.get(reader.page_path + "/curve").json()
    assert curve["steps"] == [1, 2, 3, 4, 5, 6]
    assert curve["segments"] == [1, 1, 1, 1, 1, 2]
    assert (curve["eval_steps"], curve["last"]) == ([5], [2, 6])


def test_a_registered_job_is_compared_with_the_base_model(reader: Reader) -> None:
    run(reader)
    text = reader.text()
    for shown in (
        "Held-out loss 1.2500 base model 2.5000",
        "Perplexity 3.49 base model 12.18",
        "Token accuracy 50.0% base model 25.0%",
        "adapter_model.safetensors",
    ):
        assert shown in text
    assert text.count("Held-out loss 1.2500") == 2  # also in the progress
    assert "Steps remaining" not in text
    assert "lasts about" not in text
    assert 'id="deploy" data-deployment=""' in reader.page()
    assert REFUSED in reader.post("pause")


def test_deployments_are_on_the_page_and_its_timeline(reader: Reader, platform: Platform) -> None:
    model = run(reader)
    saved = checkpoint_model(model, 10)
    checkpoint = 'id="deploy-1-10" class="plain link" data-deployment'
    assert 'id="deploy" data-deployment="deploying"' in reader.post("deploy")
    assert f'{checkpoint}="deploying"' in reader.post("checkpoints/10/deploy")
    reader.serve(model)
    reader.fail_deployment(saved)
    assert f"It died with {saved}. {ADVICE['serving_died']}" in reader.text()
    assert f'{checkpoint}="failed"' in reader.page()
    with because(platform.cause):
        platform.deploying.undeploy(reader.person.account_id, model)
    assert reader.topics()[:5] == [
        *("Undeployed", "DeploymentFailed", "DeploymentActivated"),
        *("DeploymentRequested", "DeploymentRequested"),
    ]
    timeline = reader.page().partition('id="timeline"')[2]
    assert timeline.count(f"{saved} failed. It died with {saved}.") == 1


def test_a_failed_deployment_shows_the_reason_until_it_is_retried(reader: Reader) -> None:
    model = run(reader)
    reader.post("deploy")
    reader.fail_deployment(model)
    assert f"It died with {model}. {ADVICE['serving_died']}" in reader.text()
    assert 'id="deploy" data-deployment="failed"' in reader.page()
    assert "It died with" not in reader.post("deploy").partition("#job-progress")[0]


def test_an_empty_balance_pauses_with_a_note_until_a_top_up(
    reader: Reader, platform: Platform
) -> None:
    reader.train()
    platform.spend(reader.person)
    reader.end(reason=SegmentEnd.LEASE_ENDED, shortfall=PauseReason.BALANCE)
    assert "balance-zero" in reader.notes()
    assert 'href="/billing">Top up' in reader.page()
    assert not can_resume(reader)
    assert "balance" in reader.post("resume", gpu_count="1")
    platform.credit(reader.person, 1)
    assert "balance-too-low" in reader.notes()
    platform.credit(reader.person, 10_000_000)
    notes = reader.notes()
    assert "ready-to-resume" in notes
    assert not notes & {"balance-zero", "balance-too-low"}
    assert can_resume(reader)
    assert "waiting-for-gpu" in notes_in(reader.post("resume", wait="true", gpu_count="1"))


def can_resume(reader: Reader) -> bool:
    button = reader.page().partition('id="resume"')[2].partition(">")[0].partition(" aria-")[0]
    return not button.endswith(" disabled")


def test_a_resume_on_another_number_of_gpus_has_a_quote(reader: Reader) -> None:
    reader.post("pause")
    assert 'data-note="resume-quote" data-gpus="1"' in reader.page()
    assert 'data-note="resume-quote" data-gpus="2"' in quoted(reader, "2")
    assert "resume-refused" in notes_in(quoted(reader, "3"))
    assert REFUSED in reader.post("resume", wait="true", gpu_count="3")
    for wrong in ("0", "65", "", "2.5"):
        assert "gpu-count-invalid" in notes_in(quoted(reader, wrong))
        assert escape(refusal("gpu_count", wrong)) in reader.post("resume", gpu_count=wrong)
    assert "waiting-for-gpu" in notes_in(reader.post("resume", wait="true", gpu_count="2"))
    assert reader.job.gpu_count == 2


def quoted(reader: Reader, gpu_count: str) -> str:
    """Return the quote of a resume on this many GPUs."""
    path = f"{reader.page_path}/resume?gpu_count={gpu_count}"
    return reader.client.get(path, headers=reader.browser.htmx).text


def test_a_failed_job_shows_reason_payer_and_advice(reader: Reader) -> None:
    reader.train()
    reader.add_lines(1, "loss is nan")
    reader.crash(FailureClass.LOSS_DIVERGED, error_class="Diverged")
    text, failure = reader.text(), FAILURES[FailureClass.LOSS_DIVERGED]
    for shown in ("Diverged", failure.sentence, failure.advice, "loss is nan"):
        assert shown in text
    assert 'data-failure="loss_diverged" data-payer="user"' in reader.page()
    assert 'id="promote-dialog"' in reader.page()


@pytest.mark.full
def test_a_retry_after_two_crashes_shows_its_time(reader: Reader) -> None:
    crash_before_a_checkpoint(reader)
    assert 'data-note="retrying" data-failure="node_lost"' in reader.page()
    assert FAILURES[FailureClass.NODE_LOST].sentence in reader.text()
    reader.train(2, checkpoint=None)
    reader.crash(FailureClass.NODE_LOST, 2)
    assert {"waiting-to-retry", "pause-leaves-queue"} <= reader.notes()
    assert reader.topics()[0] == "RelaunchPostponed"
    job = reader.read()
    assert job["relaunch_at"] is not None
    assert 0 < job["wait_seconds"] <= 30


def test_a_cancelled_job_shows_its_kept_checkpoint_and_can_be_promoted(reader: Reader) -> None:
    reader.train()
    assert "cancelling" in notes_in(reader.post("cancel"))
    reader.end()
    until = datetime.now(UTC) + timedelta(days=30)
    assert f'data-note="cancelled" data-kept-until="{until:%Y-%m-%d}"' in reader.page()
    assert "promote-deletes" in reader.notes()


def test_hidden_minutes_link_to_the_ledger(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.train()
    assert "earlier-minutes" not in reader.notes()
    monkeypatch.setattr(job_page, "SHOWN_ENTRIES", 2)
    page = reader.page()
    begin = page.index('data-note="earlier-minutes"')
    assert page.index('"TrainingStarted"') < begin < page.index('"PodStarted"')
    assert f"/billing?job={reader.name}&amp;kind=minutes" in page


def test_a_page_reconnects_after_temporary_problems(reader: Reader) -> None:
    config = reader.page().partition("hx-config='")[2].partition("'")[0]
    codes = json.loads(config)["ws"]["reconnectCodes"]
    assert {GOING_AWAY, TOO_SLOW, 4000 + status_of(NotYetVisible())} <= set(codes)
    assert not {4401, 4404, 4422} & set(codes)


def test_a_command_of_another_site_is_refused(reader: Reader) -> None:
    answer = reader.client.post(f"{reader.page_path}/pause", headers={"hx-request": "true"})
    assert REFUSED in answer.text
    assert "waiting-for-gpu" in reader.notes()
