"""Resuming from a checkpoint: find the newest intact one, restore it and certify it."""

from __future__ import annotations

from domain.training.checkpoint import (
    RejectionReason,
    ResumeCertificate,
    SavedCheckpoint,
    StateHashes,
)
from infrastructure.training.reports import RejectedCheckpoint
from services.trainer import checkpoint
from services.trainer.checkpoint import CheckpointDamaged, CheckpointMismatch, Position
from services.trainer.context import Context
from services.trainer.execution import ExecutionMode
from services.trainer.objectives import PreferenceLoss
from services.trainer.plan import data_position_sha256
from services.trainer.reference import Reference
from services.trainer.state import TrainingState, reseed
from services.trainer.training import Training
from services.trainer.unsent import Unsent


class CheckpointLoader:
    """Checkpoints from which all ranks can resume together. It reports damaged ones."""

    def __init__(self, context: Context) -> None:
        self._context, self._ranks, self._reporter = context, context.ranks, context.reporter
        self._candidates = list(context.spec.resume_from)
        self._rejected: list[RejectedCheckpoint] = []
        self._directory = context.scratch
        self._position: Position | None = None
        self._held_out = 0

    def fetch(self) -> Position | None:
        """Fetch the newest checkpoint with intact files. Return its position, or None.

        Raise CheckpointMismatch if its data, base model or settings differ from the job's.
        """
        self._position = None
        artifacts, scratch = self._context.artifacts, self._context.scratch
        while self._candidates and self._position is None:
            saved, position, damage = self._candidates[0], None, None
            try:
                self._directory, position = checkpoint.fetch(artifacts, saved, scratch)
            except CheckpointDamaged as error:
                damage = error
            if self._agreed(damage):
                self._position = position
            else:
                self._reject(saved, damage)
        if self._position is not None:
            self._position.require_job(self._context.spec)
        return self._position

    def restore(
        self, training: Training, mode: ExecutionMode, held_out: int = 0
    ) -> Position | None:
        """Restore and certify the fetched checkpoint. If it is damaged, try the next intact one.

        `held_out` is the number of held-out preference pairs, if the job has a reference of them.
        Return the position, or None if nothing was restored. Raise CheckpointMismatch if the
        checkpoint does not fit this job.
        """
        self._held_out = held_out
        model, optimizer, plan = training.adapted, training.optimizer, training.plan
        fresh = TrainingState.of(model, optimizer, self._ranks)
        while (position := self._position) is not None:
            saved = self._candidates[0]
            self._restore_files(training)
            self._seed_other_ranks(position)
            data_position = data_position_sha256(plan, position.step)
            live = TrainingState.of(model, optimizer, self._ranks).hashes(data_position)
            damage = self._damage(saved, position, live)
            if self._agreed(damage):
                self._certify(saved, position, live, mode)
                self._resend()
                return position
            self._reject(saved, damage)
            fresh.restore(model, optimizer, self._ranks)
            if isinstance(training.objective, PreferenceLoss):
                training.objective.reference = None
            self.fetch()
        return None

    def _resend(self) -> None:
        """Send the metrics in the checkpoint that its segment may not have sent."""
        try:
            self._reporter.resend(Unsent.read(self._directory))
        except ValueError as error:  # of another version; training does not need them
            self._reporter.log(f"could not read unsent metrics: {error!r}", "WARNING")

    def _restore_files(self, training: Training) -> None:
        """Restore all files of this rank. They are verified: a read error is the machine's."""
        try:
            state = TrainingState.read(self._directory)
            state.restore(training.adapted, training.optimizer, self._ranks)
            if isinstance(training.objective, PreferenceLoss):
                reference = Reference.read(self._directory, training.plan, self._held_out)
                training.objective.reference = reference
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointMismatch(
                f"The saved state does not fit this trainer: {error!r}"
            ) from error

    def _seed_other_ranks(self, position: Position) -> None:
        if position.mode.ranks != self._ranks.count:
            reseed(position.hyperparameters.seed, position.step, self._ranks.rank)
            self._reporter.log(
                f"{position.mode.ranks} ranks wrote the checkpoint, and {self._ranks.count} "
                "resume from it: each step has the same examples, but a different dropout",
                "WARNING",
            )

    def _agreed(self, damage: CheckpointDamaged | None) -> bool:
        (damaged,) = self._ranks.sum(float(damage is not None))
        return damaged == 0.0

    def _unchecked(self, saved: SavedCheckpoint, position: Position) -> tuple[str, ...]:
        """Return parts of the state that cannot be compared, such as other ranks' random state."""
        if (saved.state or position.state) is None:
            return tuple(StateHashes.model_fields)
        before, device = position.mode, self._ranks.device.type
        same = before.ranks == self._ranks.count and before.device in (None, device)
        return () if same else ("random",)

    def _damage(
        self, saved: SavedCheckpoint, position: Position, live: StateHashes
    ) -> CheckpointDamaged | None:
        """Return the restored state's damage, or None. Raise CheckpointMismatch for other data."""
        expected = saved.state or position.state or live
        differing = set(live.differing(expected)) - set(self._unchecked(saved, position))
        if position.step != saved.step:
            return CheckpointDamaged(
                RejectionReason.CORRUPT, f"its position is step {position.step:,}"
            )
        if differing - {"position"}:
            names = ", ".join(sorted(differing))
            return CheckpointDamaged(RejectionReason.STATE_DIFFERS, names)
        if differing:
            raise CheckpointMismatch("The data or its order differs from the checkpoint.")
        return None

    def _certify(
        self, saved: SavedCheckpoint, position: Position, live: StateHashes, mode: ExecutionMode
    ) -> None:
        differences = mode.differences(position.mode)
        unchecked = self._unchecked(saved, position)
        certificate = ResumeCertificate(
            ref=saved.ref,
            step=position.step,
            state=live,
            unchecked=unchecked,
            ranks=self._ranks.count,
            differences=differences,
        )
        self._reporter.update(now=True, resumed=certificate)
        checked = [name for name in StateHashes.model_fields if name not in unchecked]
        self._reporter.log(
            (
                f"resumed at step {position.step:,} from {saved.ref}; these hashes agree with the "
                "event log: "
            )
            + (", ".join(checked) or "none, because the event log has none")
        )
        for each in differences:
            self._reporter.log(
                f"{each.setting} is {each.saved} in the checkpoint and {each.now} in this "
                "segment: losses may differ in the last digits",
                "WARNING",
            )

    def reject(self, saved: SavedCheckpoint, reason: RejectionReason) -> None:
        """Report that a checkpoint is unusable."""
        self._rejected.append(RejectedCheckpoint(ref=saved.ref, reason=reason))
        self._reporter.update(now=True, rejected=tuple(self._rejected))

    def _reject(self, saved: SavedCheckpoint, damage: CheckpointDamaged | None) -> None:
        del self._candidates[0]
        then = (
            "trying the previous checkpoint"
            if self._candidates
            else "training starts again at step 0"
        )
        self._reporter.log(
            f"cannot resume from the checkpoint of step {saved.step:,}, {saved.ref} "
            f"({damage or 'damaged in another rank'}): {then}",
            "WARNING",
        )
        self.reject(saved, damage.reason if damage else RejectionReason.UNREADABLE)
