"""What composes: step policy x predictor x KV method x sparse attention.

Everything does, but for the `EXCLUSIONS`. A new policy, predictor, scorer, merger or sparse method composes
with all others unless a line here says otherwise; tests/test_composition.py runs what is allowed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .reuse.contract import ReusePolicy
from .reuse.predictors import Predictor
from .run_settings import RunSettings

AXES = ("policy", "predictor", "KV method", "sparse attention")


@dataclass(frozen=True)
class Exclusion:
    """axes: the two that do not go together; what: in words; refuses(settings): a sentence where it applies."""

    axes: tuple[str, str]
    what: str
    refuses: Callable[[RunSettings], str | None]


def made_for(policy: ReusePolicy) -> str | None:
    """The name of the only predictor that a policy's file was made for."""
    file = getattr(policy, "magnitudes", None) or getattr(policy, "schedule", None)
    return file.predictor if file is not None and not getattr(policy, "force", False) else None


def _other_predictor(settings: RunSettings) -> str | None:
    wanted, given = made_for(settings.policy), settings.predictor.name
    if wanted in (None, given):
        return None
    return (f"policy {settings.policy.name} with the predictor {given}: its file was made for the predictor {wanted}; "
            "use that one, or make another file")


def _frozen_increment(settings: RunSettings) -> str | None:
    if settings.predictor.name != "increment" or not settings.solver.needs_noise:
        return None
    return (f"predictor increment with the solver {settings.solver.name}: it moves a latent as far as before, and this "
            "solver starts every step from fresh noise; use velocity")


EXCLUSIONS = (
    Exclusion(("policy", "predictor"), "a policy whose file was made for another predictor", _other_predictor),
    Exclusion(("predictor", "solver"), "increments in a solver that draws fresh noise", _frozen_increment),
)
"""Besides these a merger refuses another granularity than token, and the released order, when it is made
(`kv/compression.py`): there is no run in which it could be tried."""


def refusals(settings: RunSettings) -> Iterator[str]:
    """Why what is chosen does not go together, one sentence each."""
    return (sentence for rule in EXCLUSIONS if (sentence := rule.refuses(settings)))


def check_composition(settings: RunSettings) -> None:
    """Raises ValueError with the first of `refusals`."""
    for sentence in refusals(settings):
        raise ValueError(sentence)


def composes(policy: ReusePolicy, predictor: Predictor) -> bool:
    """Whether a policy and a predictor go together, for lists that offer only what does."""
    return made_for(policy) in (None, predictor.name)
