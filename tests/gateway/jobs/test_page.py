"""The page of a job: its notes in each state, and its commands."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from markupsafe import escape
from rich.console import Console

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import because
from domain.deployments.failures import ADVICE
from domain.jobs.failures import FAILURES, FailureClass
from domain.jobs.job import Job, SegmentEnd
from domain.training.checkpoint import checkpoint_model
from gateway.cli import job_progress, job_tables
from gateway.http.errors import NotYetVisible, status_of
from gateway.http.streaming import GOING_AWAY, TOO_SLOW
from gateway.jobs.pages import job_page
from gateway.jobs.schemas import JobDetail
from gateway.launch.pages.entries import refusal
from infrastructure.measurements import add_evaluation, add_log_line, add_step
from infrastructure.profiles import set_dataset_name
from infrastructure.settings import Settings
from infrastructure.store import connect
from tests.builders.examples import ending
from tests.builders.platform import Platform
from tests.gateway.jobs.reader import Reader, evaluated, line, measured, notes_in
from tests.gateway.web.signed_in import signed_in


def test_another_accounts_job_is_not_found(reader: Reader, platform: Platform) -> None:
    signed_in(reader.client, platform.person())
    for path in ("", "/curve", "/log"):
        assert reader.client.get(reader.page_path + path).status_code == 404


def test_the_heading_matches_the_list(reader: Reader, settings: Settings) -> None:
    dataset_id = reader.platform.log.load(Job, reader.job_id).plan.dataset_id
    with connect(settings) as connection:
        set_dataset_name(connection, dataset_id, "chats <1>")
    reader.platform.project()
    page = reader.client.get(reader.page_path).text
    job = f"ftjob-{reader.job_id.hex}"
    for shown in (
        f"<h1>chats &lt;1&gt; · {reader.job_id.hex[:8]}</h1>",
        f'<a href="/datasets/{dataset_id}">chats &lt;1&gt;</a>',
        '<a href="/fine-tune">Fine-tuning jobs</a>',
        f'href="/fine-tune/new?like={job}">Duplicate</a>',
        f'href="/fine-tune/compare?jobs={job}">Compare with…</a>',
        'data-copies="job-name"',
        '<span class="badge is-calm is-live">waiting for a GPU</span>',
    ):
        assert shown in page
    assert "cancel-keeps-nothing" in reader.notes()
    reader.train()
    assert 'data-note="cancel-keeps" data-days="30"' in reader.page()


def test_waiting_for_a_gpu_is_free_of_charge(reader: Reader) -> None:
    assert {"waiting-for-gpu", "pause-leaves-queue"} <= reader.notes()
    assert "free of charge" in reader.text()


def test_training_shows_steps_losses_cost_and_balance(reader: Reader, settings: Settings) -> None:
    with because(reader.platform.cause):
        account_id, job_id = reader.person.account_id, reader.job_id
        reader.platform.log.commit(Meter.open(account_id, job_id, 1, 600_000))
    reader.train()
    with connect(settings) as connection:
        for step in range(1, 13):
            add_step(connection, measured(reader, step))
        add_evaluation(connection, evaluated(reader, 10))
        add_log_line(connection, line(reader, 1, "loading <the> model"))
    text = reader.text()
    for said in (
        "training",
        "Step 12 of 30",
        "Steps remaining 18",
        "Train loss 1.8800 smoothed 2.8800",
        "Held-out loss 1.7500 at step 10",
        "Tokens/s 1,000",
        "Balance $10.00 lasts about",
        "Estimated up to $0.0",
        "loading <the> model",
    ):
        assert said in text
    assert reader.topics()[:2] == ["CheckpointSaved", "TrainingStarted"]
    assert {"pause-saves", "cancel-keeps"} <= reader.notes()
    curve = reader.client.get(reader.page_path + "/curve").json()
    assert curve["steps"] == list(range(1, 13))
    assert (curve["eval_steps"], curve["eval_losses"]) == ([10], [1.75])
    assert curve["last"] == [1, 12]
    shown = reader.client.get(f"/api/jobs/{reader.job_id}", headers=reader.person.headers).json()
    assert (shown["train_loss"], shown["smoothed_loss"]) == (1.88, 2.88)
    assert (curve["losses"][-1], curve["smoothed"][-1]) == (1.88, 2.88)


@pytest.mark.parametrize(("gpu_type", "told"), [("cpu", True), ("cpu-small", True), ("l4", False)])
def test_memory_of_a_cpu_is_labelled_as_host_memory(
    reader: Reader, settings: Settings, gpu_type: str, told: bool
) -> None:
    reader.train()
    reader.platform.project()
    with connect(settings) as connection:
        connection.execute("UPDATE job_detail SET gpu_type = %s", [gpu_type])
    assert ("host-memory" in reader.notes()) is told
    assert "GiB predicted" in reader.text()


def test_a_job_past_its_estimate_shows_the_overrun(reader: Reader, settings: Settings) -> None:
    reader.train()
    reader.platform.project()

    def shown() -> dict[str, Any]:
        path = f"/api/jobs/{reader.job_id}"
        return reader.client.get(path, headers=reader.person.headers).json()

    estimate = shown()["estimate"]
    assert shown()["overrun"] is None
    assert 'id="overrun"' not in reader.page()
    with connect(settings) as connection:
        connection.execute(
            "UPDATE job_detail SET billed_seconds = %s, charged_micros = %s, crashes = 1, "
            "segment = 2",
            [estimate["high_seconds"] + 60, estimate["high"]["micros"] + 10_000],
        )
    overrun = shown()["overrun"]
    assert (overrun["seconds"], overrun["cost"]["micros"]) == (60, 10_000)
    assert [each["cause"] for each in overrun["reasons"]] == ["crashes"]
    assert "$0.01 and 60 s" in overrun["sentence"]
    assert overrun["sentence"] in reader.text()
    console = Console(width=200)
    with console.capture() as captured:
        job = JobDetail.model_validate(shown())
        console.print(job_tables.job(job), job_progress.panel(job, []))
    assert captured.get().count("$0.01 and 60 s") == 2


def test_a_deleted_log_is_reported(reader: Reader, settings: Settings) -> None:
    reader.register()
    assert "log-deleted" not in reader.notes()
    with connect(settings) as connection:
        connection.execute("UPDATE job_detail SET changed_at = changed_at - interval '91 days'")
    assert "log-deleted" in reader.notes()


def test_steps_lost_in_a_crash_are_not_in_the_curve(reader: Reader, settings: Settings) -> None:
    with connect(settings) as connection:
        for step, segment in [*((n, 1) for n in range(1, 8)), (6, 2)]:
            add_step(connection, measured(reader, step, segment))
        for step, segment in ((5, 1), (7, 1)):
            add_evaluation(connection, evaluated(reader, step, segment))
    curve = reader.client.get(reader.page_path + "/curve").json()
    assert curve["steps"] == [1, 2, 3, 4, 5, 6]
    assert curve["segments"] == [1, 1, 1, 1, 1, 2]
    assert (curve["eval_steps"], curve["last"]) == ([5], [2, 6])


def test_evaluation_and_registration_have_notes(reader: Reader) -> None:
    reader.train()
    reader.evaluate()
    assert "evaluating" in reader.notes()
    reader.score()
    assert "registering" in reader.notes()
    assert "trained_pending_register" not in reader.text()


def test_registered_compares_and_can_be_deployed(reader: Reader) -> None:
    reader.register()
    text = reader.text()
    for said in (
        "Held-out loss 1.2500 base model 2.5000",
        "Perplexity 3.49 base model 12.18",
        "Token accuracy 50.0% base model 25.0%",
        "adapter_model.safetensors",
    ):
        assert said in text
    assert 'id="deploy" data-deployment=""' in reader.page()
    assert 'id="deploy" data-deployment="deploying"' in reader.post("deploy")


def test_the_timeline_includes_deployments(reader: Reader, platform: Platform) -> None:
    reader.register()
    platform.project()
    reader.post("deploy")
    reader.post("checkpoints/10/deploy")
    model = platform.log.load(Job, reader.job_id).model_name
    saved = checkpoint_model(model, 10)
    reader.serve(model)
    reader.fail_deployment(saved)
    with because(platform.cause):
        platform.deploying.undeploy(reader.person.account_id, model)
    assert reader.topics()[:5] == [
        *("Undeployed", "DeploymentFailed", "DeploymentActivated"),
        *("DeploymentRequested", "DeploymentRequested"),
    ]
    timeline = reader.page().partition('id="timeline"')[2]
    assert timeline.count(f"{saved} failed. It died with {saved}.") == 1


def test_a_failed_deployment_shows_the_reason(reader: Reader) -> None:
    reader.register()
    reader.platform.project()
    checkpoint = 'id="deploy-1-10" class="plain link" data-deployment'
    assert 'id="deploy" data-deployment="deploying"' in reader.post("deploy")
    assert f'{checkpoint}="deploying"' in reader.post("checkpoints/10/deploy")
    model = reader.platform.log.load(Job, reader.job_id).model_name
    for name in (model, checkpoint_model(model, 10)):
        reader.fail_deployment(name)
    text, why = reader.text(), "It died with"
    for name in (model, checkpoint_model(model, 10)):
        assert f"{why} {name}. {ADVICE['serving_died']}" in text
    assert 'id="deploy" data-deployment="failed"' in reader.page()
    assert f'{checkpoint}="failed"' in reader.page()
    assert why not in reader.post("deploy").partition("#job-progress")[0]


def test_an_empty_balance_pauses_with_a_banner_until_there_is_money(
    reader: Reader, platform: Platform
) -> None:
    reader.train()
    with because(platform.cause):
        account = platform.log.load(Account, reader.person.account_id)
        spent = account.available_micros
        account.settle(captured_micros=spent, reserved_micros=spent)
        job = platform.log.load(Job, reader.job_id)
        job.end_segment(1, ending(SegmentEnd.LEASE_ENDED, 10), can_pay=False)
        platform.log.commit(account, job)
    assert "balance-zero" in reader.notes()
    assert 'href="/billing">Top up' in reader.page()
    assert resume_button(reader).endswith(" disabled")
    assert "balance" in reader.post("resume", gpu_count="1")
    platform.credit(reader.person, 1)
    assert "balance-too-low" in reader.notes()
    platform.credit(reader.person, 10_000_000)
    notes = reader.notes()
    assert "ready-to-resume" in notes
    assert not notes & {"balance-zero", "balance-too-low"}
    assert not resume_button(reader).endswith(" disabled")
    assert "waiting-for-gpu" in notes_in(reader.post("resume", wait="true", gpu_count="1"))


def test_a_job_paused_by_its_owner_has_no_banner(reader: Reader) -> None:
    assert "paused-owner" in notes_in(reader.post("pause"))
    notes = reader.notes()
    assert "paused-owner" in notes
    assert "balance-zero" not in notes


def test_a_job_paused_for_lack_of_gpus_has_a_note(reader: Reader, platform: Platform) -> None:
    with because(platform.cause):
        job = platform.log.load(Job, reader.job_id)
        job.lose_capacity()
        platform.log.commit(job)
    notes = reader.notes()
    assert "paused-capacity" in notes
    assert "balance-zero" not in notes


def test_a_job_can_resume_on_fewer_gpus(reader: Reader) -> None:
    reader.post("pause")
    assert 'data-note="resume-quote" data-gpus="1"' in reader.page()
    assert 'data-note="resume-quote" data-gpus="2"' in quoted(reader, 2)
    assert "resume-refused" in notes_in(quoted(reader, 3))
    assert is_refused(reader.post("resume", wait="true", gpu_count="3"))
    for wrong in ("0", "65", "", "2.5"):
        assert "gpu-count-invalid" in notes_in(quoted(reader, wrong))
        assert escape(refusal("gpu_count", wrong)) in reader.post("resume", gpu_count=wrong)
    assert "waiting-for-gpu" in notes_in(reader.post("resume", wait="true", gpu_count="2"))
    assert reader.platform.log.load(Job, reader.job_id).gpu_count == 2


def test_a_failed_job_shows_reason_payer_and_advice(reader: Reader, settings: Settings) -> None:
    reader.train()
    with connect(settings) as connection:
        add_log_line(connection, line(reader, 1, "loss is nan"))
    reader.crash(FailureClass.LOSS_DIVERGED)
    text, failure = reader.text(), FAILURES[FailureClass.LOSS_DIVERGED]
    for said in ("Diverged", failure.sentence, failure.advice, "loss is nan"):
        assert said in text
    assert 'data-failure="loss_diverged" data-payer="user"' in reader.page()
    assert 'id="promote-dialog"' in reader.page()


def test_a_retried_crash_has_a_note_during_the_wait(reader: Reader) -> None:
    reader.train()
    reader.crash(FailureClass.NODE_LOST)
    assert 'data-note="retrying" data-failure="node_lost"' in reader.page()
    assert FAILURES[FailureClass.NODE_LOST].sentence in reader.text()


def test_a_delayed_retry_shows_its_time(reader: Reader) -> None:
    for segment in (1, 2):
        reader.train(segment, checkpoint=None)
        reader.crash(FailureClass.NODE_LOST, segment)
    assert {"waiting-to-retry", "pause-leaves-queue"} <= reader.notes()
    assert reader.topics()[0] == "RelaunchPostponed"
    shown = reader.client.get(reader.path, headers=reader.person.headers).json()
    assert shown["relaunch_at"] is not None
    assert 0 < shown["wait_seconds"] <= 30


def test_a_job_that_waits_again_has_no_trainer_to_stop(reader: Reader) -> None:
    reader.train(checkpoint=None)
    assert {"pause-saves", "cancel-saves"} <= reader.notes()
    reader.crash(FailureClass.NODE_LOST)
    assert {"pause-leaves-queue", "cancel-keeps-nothing"} <= reader.notes()


def test_a_halved_micro_batch_has_a_note(reader: Reader) -> None:
    reader.train()
    reader.run_out_of_memory(1)
    assert "micro-batch-halved" in reader.notes()


def test_a_cancelled_job_shows_its_kept_checkpoint_and_can_be_promoted(reader: Reader) -> None:
    reader.train()
    assert "cancelling" in notes_in(reader.post("cancel"))
    reader.end()
    until = datetime.now(UTC) + timedelta(days=30)
    assert f'data-note="cancelled" data-kept-until="{until:%Y-%m-%d}"' in reader.page()
    assert "promote-deletes" in reader.notes()


def test_settings_have_the_wizards_titles(reader: Reader) -> None:
    text = reader.text()
    for said in (
        "GPUs 1 × CPU (this machine), $",
        "Region This machine",
        "LoRA r 16",
        "Target modules q_proj, v_proj",
    ):
        assert said in text


def test_hidden_minutes_link_to_the_ledger(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.train()
    assert "earlier-minutes" not in reader.notes()
    monkeypatch.setattr(job_page, "SHOWN_ENTRIES", 2)
    timeline = reader.page()
    begin = timeline.index('data-note="earlier-minutes"')
    assert timeline.index('"TrainingStarted"') < begin < timeline.index('"PodStarted"')
    ledger = f"/billing?job=ftjob-{reader.job_id.hex}&amp;kind=minutes"
    assert ledger in reader.client.get(reader.page_path).text


def test_a_page_reconnects_after_passing_problems(reader: Reader) -> None:
    page = reader.client.get(reader.page_path).text
    config = page.partition("hx-config='")[2].partition("'")[0]
    codes = json.loads(config)["ws"]["reconnectCodes"]
    assert {GOING_AWAY, TOO_SLOW, 4000 + status_of(NotYetVisible())} <= set(codes)
    assert not {4401, 4404, 4422} & set(codes)


def test_a_refused_command_is_a_notice(reader: Reader) -> None:
    reader.register()
    reader.platform.project()
    assert is_refused(reader.post("pause"))


def test_a_command_of_another_site_is_refused(reader: Reader) -> None:
    answer = reader.client.post(f"{reader.page_path}/pause", headers={"hx-request": "true"})
    assert is_refused(answer.text)
    assert "waiting-for-gpu" in reader.notes()


def is_refused(answer: str) -> bool:
    """Return True if a command was answered with a notice."""
    return 'class="notice is-problem"' in answer


def resume_button(reader: Reader) -> str:
    page = reader.client.get(reader.page_path).text
    return page.partition('id="resume"')[2].partition(">")[0].partition(" aria-")[0]


def quoted(reader: Reader, gpu_count: int | str) -> str:
    """Return the quote of a resume on this many GPUs."""
    answer = reader.client.get(
        f"{reader.page_path}/resume",
        params={"gpu_count": gpu_count},
        headers=reader.browser.htmx,
    )
    assert answer.status_code == 200
    return answer.text
