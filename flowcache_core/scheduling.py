"""The best schedule for what may be computed: dynamic programming over learned errors, all costs at once.

The states of the path are (computed step before, last computed step, last step with all streams). Errors of gaps are
added up; a price on computed stream steps is searched until the path costs what was wanted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .learning import Errors
from .reuse.schedules import FIRST, FULL, SKIP

LONGEST, OLDEST = 12, 16   # steps in a gap, and steps since all streams were computed, at most
BISECTIONS = 30
State = tuple[int, int, int]   # before, last, whole


@dataclass(frozen=True)
class Path:
    """actions: one letter a step; error: summed; cost: computed stream steps."""

    actions: str
    error: float
    cost: int


class Planner:
    """warmup, last: steps computed whole at a chunk's start and end; derives: whether streams may be derived."""

    def __init__(self, errors: Errors, warmup: int = 2, last: int = 1, derives: bool = False) -> None:
        count = errors.count
        if not 1 <= warmup <= count - last or last < 1:
            raise ValueError(f"{warmup} first and {last} last steps of {count}: expected at least 1 each, and a step "
                             "between")
        if derives and errors.streams < 2:
            raise ValueError("deriving streams in a run of one stream: leave it out, or use guidance")
        self.errors, self.warmup, self.last, self.derives = errors, warmup, last, derives
        self._gaps: dict[tuple[int, int, int, int], float] = {}

    def _gap(self, state: State, stop: int) -> float:
        before, last, whole = state
        key = (before, last, whole if self.derives else last, stop)
        if key not in self._gaps:
            self._gaps[key] = self.errors.gap(*key, self.derives)
        return self._gaps[key]

    def _moves(self, state: State) -> Iterator[tuple[State, str, float, int]]:
        """Next computed step with its action, added error and cost."""
        _, last, whole = state
        count, final = self.errors.count, self.errors.count - self.last
        for stop in range(last + 1, min(count, last + LONGEST + 2)):
            if last + 1 < stop and last + 1 >= final:
                break   # the last steps are computed
            error = self._gap(state, stop)
            yield (last, stop, stop), FULL, error, self.errors.streams
            if self.derives and stop < final and stop - whole <= OLDEST:
                yield (last, stop, whole), FIRST, error + self.errors.derived(whole, stop), 1
            if stop >= final:
                break

    def cheapest(self, price: float) -> Path:
        """The path with the least error plus `price` a computed stream step."""
        count, start = self.errors.count, self.warmup - 1
        state = (max(0, start - 1), start, start)
        best: dict[State, tuple[float, float, int]] = {state: (0.0, 0.0, self.warmup * self.errors.streams)}
        came: dict[State, tuple[State, str]] = {}
        for at in range(start, count - 1):
            for state in [s for s in best if s[1] == at]:
                total, error, cost = best[state]
                for following, action, more, extra in self._moves(state):
                    reached = (total + more + price * extra, error + more, cost + extra)
                    if following not in best or reached < best[following]:
                        best[following], came[following] = reached, (state, action)
        end = min((s for s in best if s[1] == count - 1), key=lambda s: best[s])
        actions, error, cost = [SKIP] * count, best[end][1], best[end][2]
        actions[:self.warmup] = [FULL] * self.warmup
        state = end
        while state in came:
            actions[state[1]] = came[state][1]
            state = came[state][0]
        return Path("".join(actions), error, cost)

    def for_share(self, share: float) -> Path:
        """The path with at most `share` of all stream steps computed and the least error that prices lead to.

        Raises ValueError for a share that cannot be met, naming the least.
        """
        everything = self.errors.count * self.errors.streams
        if not 0 < share <= 1:
            raise ValueError(f"computed share {share:g}: expected more than 0, at most 1 (all)")
        low, high = 0.0, 1.0
        while self.cheapest(high).cost > share * everything and high < 1e12:
            high *= 8
        found = self.cheapest(high)
        if found.cost > share * everything:
            raise ValueError(f"a computed share of {share:g} cannot be met: with {self.warmup} first and {self.last} "
                             f"last steps computed and at most {LONGEST} skipped in a row, the least is "
                             f"{found.cost / everything:.3f}")
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            path = self.cheapest(middle)
            if path.cost > share * everything:
                low = middle
            else:
                high = middle
                found = min(found, path, key=lambda p: (p.error, p.cost))
        return found


def even(count: int, streams: int, share: float, warmup: int, last: int) -> str:
    """The schedule with computed steps evenly between the first and the last ones, at most `share` of all."""
    computed = max(warmup + last, int(share * count + 1e-9))
    free, inner = computed - warmup - last, count - warmup - last
    chosen = {warmup + round((n + 1) * (inner + 1) / (free + 1)) - 1 for n in range(free)}
    return "".join(FULL if s < warmup or s >= count - last or s in chosen else SKIP for s in range(count))


def neighbours(actions: str, warmup: int, last: int) -> list[str]:
    """Schedules of the same cost in which one computed step lies one place earlier or later."""
    found = []
    for step in range(warmup, len(actions) - last):
        for other in (step - 1, step + 1):
            if actions[step] != SKIP and warmup <= other < len(actions) - last and actions[other] == SKIP:
                moved = list(actions)
                moved[step], moved[other] = moved[other], moved[step]
                found.append("".join(moved))
    return found


def refined(starts: list[str], real_error: Callable[[str], float], runs: int, warmup: int,
            last: int) -> tuple[str, float, int]:
    """The best schedule that real runs find: the best of `starts`, then its neighbours, as long as one is better.

    real_error(actions): of a run. Returns the schedule, its error and the number of runs, at most `runs` (but all
    starts).
    """
    known = {actions: real_error(actions) for actions in dict.fromkeys(starts)}
    best = min(known, key=known.__getitem__)
    improved = True
    while improved:
        improved = False
        for actions in neighbours(best, warmup, last):
            if actions in known:
                continue
            if len(known) >= runs:
                return best, known[best], len(known)
            known[actions] = real_error(actions)
            if known[actions] < known[best]:
                best, improved = actions, True
                break
    return best, known[best], len(known)
