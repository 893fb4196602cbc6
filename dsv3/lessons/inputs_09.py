"""Inputs of lesson 09's checks: scripted models that count how they are called, and draws that are counted."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from ..said import Said
from .judge import Refused

Use = Callable[[Any, tuple], Any]
Ids = list[list[int]]

OFF = 4.5  # standard deviations by which a right count may miss; one of 100,000 misses by more


def scores_of(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """[V] scores, no two of them equal."""
    return torch.tensor(values, dtype=dtype)


def many_scores(V: int = 500, size: float = 2.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """[V] normal scores."""
    return (torch.randn(V, generator=torch.Generator().manual_seed(V)) * size).to(dtype)


# -------------------------------------------------------------------------------------------------------------- draws


def counted(tokens: list[int], probabilities: Tensor) -> list[str]:
    """For each token "fits", if it was drawn as often as its probability says, or how far off that is."""
    n, found = len(tokens), list[str]()
    for token, p in enumerate(probabilities.double().tolist()):
        off = tokens.count(token) - n * p
        limit = OFF * (n * p * (1 - p)) ** 0.5 + 1e-6
        found.append("fits" if abs(off) <= limit else f"too {'often' if off > 0 else 'seldom'} by {abs(off) / n:.2f}")
    return found


def draws(answer: Any, probabilities: Tensor, n: int, seed: int = 0) -> list[Any]:
    """What an answer draws, n times from one generator."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        return [answer(probabilities, generator) for _ in range(n)]


def whole_ids(answer: Any, given: tuple) -> Any:
    """What comes back, if its ids are ints: a tensor is never found ``in`` a set of ids."""
    found = answer(*given)
    kinds = {type(token).__name__ for token in found if type(token) is not int} if isinstance(found, list) else ()
    return Refused(Said("an id is an int, not a {kinds}", kinds=", ".join(kinds))) if kinds else found


def always(answer: Any, given: tuple) -> Any:
    """Twenty draws."""
    return whole_ids(lambda probabilities: draws(answer, probabilities, 20), given)


def often(n: int = 3000) -> Use:
    """How often each token is drawn, as ``counted`` tells it."""
    return lambda answer, given: counted(draws(answer, given[0], n), given[0])


def seldom(answer: Any, given: tuple) -> list[int]:
    """The tokens of probability 0 that were drawn."""
    return sorted({token for token in draws(answer, given[0], 400) if given[0][token] == 0})


def repeated(answer: Any, given: tuple) -> tuple[bool, bool]:
    """Whether a seed gives the same draws again, and another seed the same, too."""
    one, again, other = (draws(answer, given[0], 40, seed) for seed in (1, 1, 2))
    return one == again, one == other


def others_numbers(answer: Any, given: tuple) -> tuple[bool, bool]:
    """Whether torch's own generator is where it was, and the draws do not depend on it."""
    found, left = [], []
    with torch.random.fork_rng(devices=[]):
        for seed in (3, 4):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            generator = torch.Generator().manual_seed(0)
            found.append([answer(given[0], generator) for _ in range(40)])
            left.append(torch.equal(before, torch.get_rng_state()))
    return found[0] == found[1], all(left)


def remainders(answer: Any, given: tuple) -> list[str]:
    """The drawn tokens' remainders by 4, told as ``counted`` does: rounded sums reach only some of four neighbours."""
    return counted([token % 4 for token in draws(answer, given[0], 2000)], torch.full((4,), 0.25))


def kept_guesses(n: int = 3000) -> Use:
    """What the sampled rule gives for guesses drawn from q: how often each token, and how often the guess."""

    def use(answer: Any, given: tuple) -> Any:
        p, q = given
        guesses = torch.multinomial(q, n, replacement=True, generator=torch.Generator().manual_seed(5)).tolist()
        generator = torch.Generator().manual_seed(6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            before = torch.get_rng_state()
            tokens = [answer(p, q, guess, generator) for guess in guesses]
            if not torch.equal(before, torch.get_rng_state()):
                return Refused(Said("it uses torch's own generator: pass the one that is given"))
        kept = [int(token == guess) for token, guess in zip(tokens, guesses, strict=True)]
        share = torch.minimum(p, q).sum()
        return counted(tokens, p), counted(kept, torch.stack([1 - share, share]))

    return use


# ------------------------------------------------------------------------------------------------------------- models


class Scripted:
    """A model whose answer is known: it prefers the next id of a script, by position; calls are written down.

    At a position where no script is, it prefers id 8.
    """

    def __init__(self, prompts: Ids, scripts: Ids, most: int = 60):
        self.prompts, self.scripts, self.most = prompts, scripts, most
        self.calls: list[tuple] = []

    def _scores(self, row: int, position: int) -> Tensor:
        i = position - len(self.prompts[row]) + 1
        script = self.scripts[row]
        wanted = script[i] if 0 <= i < len(script) else 8
        scores = torch.zeros(12)
        scores[wanted], scores[(wanted + 1) % 12] = 2.0, 1.0
        return scores

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if len(self.calls) > self.most:
            raise RuntimeError("the model is called again and again: nothing ends the loop")

    def prefill(self, tokens: list[int]) -> Tensor:
        """[S] ids -> [V] scores."""
        self._called("prefill", [int(token) for token in tokens])
        return self._scores(0, len(tokens) - 1)

    def step(self, token: int, position: int) -> Tensor:
        """One id -> [V] scores."""
        self._called("step", int(token), int(position))
        return self._scores(0, int(position))

    def prefill_batch(self, tokens: Tensor) -> Tensor:
        """[B, S] ids -> [B, S, V] scores."""
        rows = [row[: len(p)].tolist() for row, p in zip(tokens, self.prompts, strict=True)]
        self._called("prefill", rows, tuple(tokens.shape))
        return torch.stack(
            [torch.stack([self._scores(b, i) for i in range(tokens.shape[1])]) for b in range(len(rows))]
        )

    def step_batch(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """[B] ids at [B] positions -> [B, V] scores."""
        live = [
            b for b, script in enumerate(self.scripts) if int(positions[b]) < len(self.prompts[b]) + len(script) - 1
        ]  # what is done with a conversation that has ended is left open
        self._called("step", [(int(tokens[b]), int(positions[b])) for b in live])
        return torch.stack([self._scores(b, int(at)) for b, at in enumerate(positions)])


def likeliest(scores: Tensor) -> int:
    """The greedy choice."""
    return int(scores.argmax())


def second(scores: Tensor) -> int:
    """Another choice than the greedy one."""
    return int(scores.topk(2).indices[1])


def run(
    prompt: list[int],
    script: list[int],
    choose: Callable[[Tensor], int] = likeliest,
    ends: Collection[int] = (1,),
    most: int = 20,
) -> Use:
    """A loop over one conversation: its ids, and its calls of the model."""

    def use(answer: Any, given: tuple) -> Any:
        model, mine = Scripted([prompt], [script]), list(prompt)
        found = answer(model.prefill, model.step, mine, choose, frozenset(ends), most)
        return (found, model.calls) if mine == prompt else Refused(Said("it changes the prompt that it is given"))

    return use


def run_batch(
    prompts: Ids,
    scripts: Ids,
    ends: Collection[int] = (1,),
    most: int = 20,
    choose: Callable[[Tensor], int] = likeliest,
) -> Use:
    """The same of a loop over several conversations."""

    def use(answer: Any, given: tuple) -> Any:
        model = Scripted(prompts, scripts)

        def every(scores: Tensor) -> list[int]:
            return [choose(row) for row in scores]

        mine = [list(prompt) for prompt in prompts]
        found = answer(model.prefill_batch, model.step_batch, mine, every, frozenset(ends), most)
        return (found, model.calls) if mine == prompts else Refused(Said("it changes the prompts that it is given"))

    return use


def preferring(*tokens: int, V: int = 8) -> Tensor:
    """[S, V] scores; at each place one token is the likeliest."""
    scores = torch.randn(len(tokens), V, generator=torch.Generator().manual_seed(len(tokens)))
    scores[torch.arange(len(tokens)), torch.tensor(tokens)] = 5.0
    return scores


def turns(*texts: str) -> list[dict[str, str]]:
    """A conversation: user, assistant, user, ..."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
