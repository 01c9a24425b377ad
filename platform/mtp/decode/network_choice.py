"""Which network an engine gets: the compiled step where it can run, PyTorch elsewhere, with one note saying why."""

import logging
from functools import cache

from mtp.decode.cache import LatentPages
from mtp.decode.native.build import BuildError
from mtp.decode.native.layout import supported
from mtp.decode.native.network import NativeNetwork
from mtp.decode.network import Network, TorchNetwork
from mtp.decode.options import EngineOptions
from mtp.decode.rows import Rows
from mtp.errors import MTPError
from mtp.model import MTPModel


def choose_network(model: MTPModel, rows: Rows, pages: LatentPages, options: EngineOptions) -> Network:
    """The network that `options.compiled_step` and `options.quantization` ask for.

    Raises:
        MTPError: the options insist on the compiled step, or on quantization, and it cannot run here.
    """
    quantization = options.quantization
    asked = quantization not in ("auto", "none")
    if options.compiled_step == "off":
        if asked:
            raise MTPError(
                f"quantization {quantization} needs the compiled step, but compiled_step is off; set it to auto"
            )
        return TorchNetwork(model, rows)
    reason = supported(model)
    if reason is None:
        try:
            return NativeNetwork(model, rows, pages, "drafts" if quantization == "auto" else quantization)
        except BuildError as error:
            reason = str(error)
            _note(reason)
    if asked or options.compiled_step == "on":
        wish = f"quantization {quantization}" if asked else "compiled_step on"
        raise MTPError(f"{wish} asks for the compiled step, which cannot run here: {reason}")
    return TorchNetwork(model, rows)


@cache
def _note(reason: str) -> None:
    """Once for each reason."""
    logging.getLogger("mtp.decode").warning(
        "decoding runs without the compiled step (several times slower on a processor): %s", reason
    )
