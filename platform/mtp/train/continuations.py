"""Rows as the model itself goes on with them: what its modules meet when it is served.

Modules that learn from the corpus agree with the model on the corpus; what they draft for is text that the model makes.
(Zhou et al. 2023, "DistillSpec": a draft model should learn on such text.) Knows a model and batches of rows.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation
from mtp.errors import MTPError
from mtp.model import MTPModel

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Tokens (rows, T), and the document of each."""

PROMPT = 4
"""The first T // PROMPT tokens of a row stay as they are, and one at the least."""
TOGETHER = 64
"""Rows that are continued together."""


def with_continuations(batches: Iterator[Batch], model: MTPModel, share: float) -> Iterator[Batch]:
    """The same batches, all of one size, of whose rows the model has rewritten a share behind their first tokens.

    It goes on greedily; such a row is one document from end to end. Batches are taken and rewritten many at a time:
    the backbone has to stay as it is meanwhile, the modules do not.

    Raises:
        MTPError: the model gives logits that are not finite.
    """
    if not share:
        yield from batches
        return
    first = next(batches, None)
    if first is None:
        return
    rows, length = first[0].shape
    engine, kept = _engine(model, length), max(1, length // PROMPT)
    several = max(1, round(TOGETHER / (share * rows)))
    done, block = 0, [first, *islice(batches, several - 1)]
    while block:
        tokens, document = (np.concatenate(parts) for parts in zip(*block, strict=True))
        numbers = np.arange(done, done := done + len(tokens))
        turn = np.floor((numbers + 1) * share) > np.floor(numbers * share)
        picked = np.flatnonzero(turn & (document[:, :kept] >= 0).all(axis=1))
        tokens[picked], document[picked] = _continued(engine, tokens[picked], kept), 0
        yield from zip(np.split(tokens, len(block)), np.split(document, len(block)), strict=True)
        block = list(islice(batches, several))


def _continued(engine: Engine, rows: npt.NDArray[np.int64], kept: int) -> npt.NDArray[np.int64]:
    """Rows (n, T) with the same first `kept` tokens, which go on as the model would."""
    sampling = Sampling(max_tokens=rows.shape[1] - kept, ignore_eos=True)
    standard = Speculation(decoder="standard")
    prompts = rows[:, :kept].tolist()
    place = {
        engine.add(Request(prompt=prompt, sampling=sampling, speculation=standard)): at
        for at, prompt in enumerate(prompts)
    }
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise MTPError(f"the model cannot go on with a row of the data: {output.error}")
            prompts[place[output.request_id]] += [token.id for token in output.tokens]
    return np.array(prompts, dtype=np.int64).reshape(rows.shape)


def _engine(model: MTPModel, length: int) -> Engine:
    options = EngineOptions(
        max_batch_size=TOGETHER, max_model_len=length, max_draft_tokens=0, prefix_caching=False, max_batch_tokens=1024
    )
    return Engine(model, options=options)
